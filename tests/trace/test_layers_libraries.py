"""The layers of networks written with the usual libraries: Flax Linen and NNX, Equinox."""

import importlib

import jax
import jax.numpy as jnp

from domino_jax.core.canonical import Axes
from domino_jax.trace.layers import find_layers

F = jnp.float32
S = jax.ShapeDtypeStruct
IO = Axes((), (), (0,), (1,))
HWIO = Axes((), (0, 1), (2,), (3,))
STACKED = Axes((0,), (), (1,), (2,))


def floats(*shape):
    return S(shape, F)


def reasons(layers):
    return {layer.name: layer.reason for layer in layers}


def test_flax_linen():
    nn = importlib.import_module("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(16)(nn.relu(nn.Dense(32)(x))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (3, 3), strides=2, dtype=jnp.bfloat16)(x)
            x = nn.Conv(16, (3, 3), feature_group_count=16)(x.astype(F))
            x = x.reshape(x.shape[0], -1, 16)
            x = nn.MultiHeadDotProductAttention(num_heads=4)(x)
            x, _ = nn.scan(
                nn.remat(Block),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )(name="blocks")(x, None)
            return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=1))

    net, x = Net(), floats(2, 8, 8, 3)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
        layers = find_layers(lambda p, x: net.apply({"params": p}, x), params, x, 8)
    attention = "MultiHeadDotProductAttention_0/"
    heads = Axes((), (), (0,), (1, 2))
    expected = {
        "Conv_0/kernel": (HWIO, 16 * 27 * 16),
        "Conv_1/kernel": (HWIO, 16 * 9 * 16),
        **{f"{attention}{n}/kernel": (heads, 16 * 256) for n in ("query", "key", "value")},
        f"{attention}out/kernel": (Axes((), (), (0, 1), (2,)), 16 * 256),
        **{f"blocks/Dense_{d}/kernel#{i}": (STACKED, 16 * 512) for i in range(3) for d in (1, 0)},
        "Dense_0/kernel": (IO, 160),
    }
    assert {layer.name: (layer.roles, layer.macs) for layer in layers if layer.roles} == expected
    assert [layer.name for layer in layers[: len(expected)]] == list(expected)
    left_out = layers[len(expected) :]
    assert {layer.reason for layer in left_out} == {"goes into add"}
    assert all(layer.name.endswith("/bias") for layer in left_out)
    assert reasons(layers)["Conv_1/kernel"] == "depthwise"


def test_flax_nnx():
    nnx = importlib.import_module("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 16, (3, 3), padding="VALID", rngs=rngs)
            self.blocks = nnx.List([nnx.Linear(16, 16, rngs=rngs) for _ in range(2)])
            self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)

        def __call__(self, x):
            x = self.norm(self.conv(x), use_running_average=True)
            for block in self.blocks:
                x = nnx.relu(block(x))
            return self.attention(x.reshape(x.shape[0], -1, 16))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        net = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
        graph, params, rest = nnx.split(net, nnx.Param, ...)

        def apply(p, x):
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, F), rest)
            return nnx.merge(graph, p, zeros)(x)

        layers = find_layers(apply, nnx.to_pure_dict(params), floats(4, 6, 6, 3), 8)
    macs = {layer.name: layer.macs for layer in layers if layer.roles}
    assert macs == {
        "conv/kernel": 16 * 27 * 16,
        "blocks/0/kernel": 16 * 256,
        "blocks/1/kernel": 16 * 256,
        **{f"attention/{n}/kernel": 16 * 256 for n in ("query", "key", "value", "out")},
    }
    assert [layer.name for layer in layers if layer.roles and layer.reason] == ["conv/kernel"]


def test_equinox():
    eqx = importlib.import_module("equinox")
    keys = jax.random.split(jax.random.key(0), 3)

    class Net(eqx.Module):
        conv: object
        mlp: object
        table: object

        def __call__(self, x):
            return self.mlp(self.conv(x).mean(axis=(1, 2))) + self.table(0)

    net = Net(
        eqx.nn.Conv2d(8, 16, 3, key=keys[0]),
        eqx.nn.MLP(16, 4, 32, 1, key=keys[1]),
        eqx.nn.Embedding(5, 4, key=keys[2]),
    )
    layers = find_layers(lambda p, x: jax.vmap(p)(x), net, floats(2, 8, 5, 5), 8)
    out_in = Axes((), (), (1,), (0,))
    assert {layer.name: (layer.roles, layer.macs, layer.reason) for layer in layers} == {
        "conv/weight": (Axes((), (2, 3), (1,), (0,)), 9 * 9 * 8 * 16, None),
        "mlp/layers/0/weight": (out_in, 512, None),
        "mlp/layers/1/weight": (out_in, 128, None),
        "conv/bias": (None, 0, "goes into add"),
        "table/weight": (None, 0, "goes into add"),
    }


def test_resnet50_has_the_published_counts():
    layers = find_layers(*resnet(50), 4)
    assert len(layers) == 54
    # He et al. 2016, table 1: 3.8e9 multiply-adds (stride in the 1x1 convolution), 4.09e9 in V1.5.
    assert sum(layer.macs for layer in layers) == 4_089_184_256
    assert sum(layer.size for layer in layers) == 25_502_912


def resnet(depth):
    from domino_jax import models  # noqa: PLC0415

    example = floats(2, 224, 224, 3)
    model = models.create(f"resnet{depth}", example=example, classes=1000, seed=0)

    def apply(params, x):
        return model.apply(params, model.stats, x, train=False, key=None)[0]

    return apply, model.params, example

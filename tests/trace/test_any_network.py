"""Networks from anywhere: layers, a short search and training under its scheme, for each form.

Axes and multiply-adds of every form are written down by hand, and what a training leaves is judged
with NumPy along those hand-written axes, not by our masks.

Letters: B examples, T tokens, D features, H heads, L depth of a stack.
"""

import importlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import domino_jax as dj
from domino_jax.core.paths import leaves_by_path, replace_leaves

F = jnp.float32
M, BUDGET = 4, 0.6
IO, OI = dj.Axes((), (), (0,), (1,)), dj.Axes((), (), (1,), (0,))
HWIO, OIHW = dj.Axes((), (0, 1), (2,), (3,)), dj.Axes((), (2, 3), (1,), (0,))
STACKED = dj.Axes((0,), (), (1,), (2,))
QKV, OUT = dj.Axes((), (), (0,), (1, 2)), dj.Axes((), (), (0, 1), (2,))
STACKED_QKV, STACKED_OUT = dj.Axes((0,), (), (1,), (2, 3)), dj.Axes((0,), (), (1, 2), (3,))


class Network(NamedTuple):
    """A network of some library, and what is known of it by hand.

    Attributes:
        model: apply, shapes of the params, stats.
        inputs: a batch.
        layers: path -> (axes, MACs of one example, of each slice of a stack).
        dense: path -> why a layer has no groups.
    """

    model: dj.Model
    inputs: Any
    layers: dict[str, tuple[dj.Axes, int]]
    dense: dict[str, str]


def images(*shape):
    return np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)


def by_hand():
    """Has a convolution, a matrix used twice, a head tied to nothing and a bias."""

    def apply(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, p["stem"], (2, 2), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(x).reshape(x.shape[0], -1, 8)
        x = jax.nn.relu(x @ p["mix"]) @ p["mix"]
        return x.mean(1) @ p["head"]["kernel"] + p["head"]["bias"][None]

    shapes = {"stem": (3, 3, 4, 8), "mix": (8, 8), "head": {"kernel": (8, 3), "bias": (3,)}}
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, F), shapes, is_leaf=_is_shape)
    layers = {"stem": (HWIO, 9 * 9 * 4 * 8), "mix": (IO, 2 * 9 * 64), "head/kernel": (IO, 24)}
    return Network(dj.plain(apply, params), images(6, 6, 4), layers, {})


def _is_shape(node):
    return isinstance(node, tuple)


def flax_linen():
    nn = importlib.import_module("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (1, 1), strides=2)(x))
            x = nn.LayerNorm()(nn.relu(nn.Conv(8, (3, 3))(x)))
            return nn.Dense(3)(x.mean(axis=(1, 2)))

    net, x = Net(), images(6, 6, 3)
    params = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    layers = {
        "Conv_0/kernel": (HWIO, 9 * 3 * 8),
        "Conv_1/kernel": (HWIO, 9 * 9 * 64),
        "Dense_0/kernel": (IO, 24),
    }
    dense = {"Conv_0/kernel": "input size 3 is no multiple of 4"}
    return Network(dj.plain(lambda p, x: net.apply({"params": p}, x), params), x, layers, dense)


def flax_nnx():
    nnx = importlib.import_module("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(4, 8, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
            for block in self.blocks:
                x = nnx.relu(block(x))
            return x

    model = dj.models.from_nnx(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    blocks = {f"blocks/{i}/kernel": (IO, 64) for i in range(2)}
    return Network(model, images(6, 6, 4), {"conv/kernel": (HWIO, 16 * 9 * 32)} | blocks, {})


def equinox():
    """Its arrays as a dict by path; all weights are (out, in)."""
    eqx = importlib.import_module("equinox")

    class Net(eqx.Module):
        conv: Any
        mlp: Any

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(4, 8, 3, key=key)
            self.mlp = eqx.nn.MLP(8, 3, 16, 1, key=key)

        def __call__(self, x):
            return self.mlp(jax.nn.relu(self.conv(x)).mean((1, 2)))

    net = eqx.filter_eval_shape(Net, jax.random.key(0))
    arrays, rest = eqx.partition(net, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def apply(p, x):
        return jax.vmap(eqx.combine(replace_leaves(arrays, p), rest))(x)

    layers = {
        "conv/weight": (OIHW, 16 * 9 * 32),
        "mlp/layers/0/weight": (OI, 128),
        "mlp/layers/1/weight": (OI, 48),
    }
    # Equinox' convolution has a bias of rank 3.
    dense = {"conv/bias": "goes into add"}
    return Network(dj.plain(apply, leaves_by_path(arrays)), images(4, 6, 6), layers, dense)


def nnx_attention():
    """Has query, key and value kernels (D, H, D/H), and an output kernel (H, D/H, D)."""
    nnx = importlib.import_module("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

        def __call__(self, x):
            return self.attention(x).mean(1)

    model = dj.models.from_nnx(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    layers = {f"attention/{name}/kernel": (QKV, 5 * 64) for name in ("query", "key", "value")}
    layers["attention/out/kernel"] = (OUT, 5 * 64)
    biases = {f"attention/{name}/bias": "goes into add" for name in ("query", "key", "value")}
    return Network(model, images(5, 8), layers, biases)


def scanned_transformer():
    """Has two blocks under nn.scan and nn.remat: each kernel has a leading axis of depth 2."""
    nn = importlib.import_module("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(
                nn.LayerNorm()(x)
            )
            return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stack = nn.scan(
                nn.remat(Block),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=2,
            )
            x, _ = stack(name="blocks")(x, None)
            return nn.Dense(3)(x.mean(1))

    net, x = Net(), images(5, 8)
    params = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    layers = {
        **{f"blocks/attention/{n}/kernel": (STACKED_QKV, 320) for n in ("query", "key", "value")},
        "blocks/attention/out/kernel": (STACKED_OUT, 320),
        "blocks/Dense_0/kernel": (STACKED, 5 * 128),
        "blocks/Dense_1/kernel": (STACKED, 5 * 128),
        "Dense_0/kernel": (IO, 24),
    }
    found = leaves_by_path(params)
    vectors = [path for path in found if path.startswith("blocks/") and path not in layers]
    dense = {p: "goes into mul" if p.endswith("scale") else "goes into add" for p in vectors}
    return Network(dj.plain(lambda p, x: net.apply({"params": p}, x), params), x, layers, dense)


def mamba2():
    """A language model of a package of its own: state spaces, and a head tied to the embedding.

    Its depthwise convolution is written as products of shifted inputs, so it has no layer.
    """
    nnx = importlib.import_module("flax.nnx")
    package = importlib.import_module("mamba2_jax")
    sizes = {"hidden_size": 8, "state_size": 4, "head_dim": 4, "num_hidden_layers": 1}
    config = package.Mamba2Config(vocab_size=12, chunk_size=4, **sizes)
    net = dj.models.from_nnx(
        nnx.eval_shape(lambda: package.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)))
    )

    def apply(p, stats, x, **options):
        outputs, stats = net.apply(p, stats, x, **options)
        return outputs["logits"], stats

    # 16 inner features: gate and input 16 each, B and C 4 each, 4 heads.
    tokens, projected = 6, 2 * 16 + 2 * 4 + 4
    mixer = "backbone/layers/0/mixer"
    layers = {
        f"{mixer}/in_proj/kernel": (IO, tokens * 8 * projected),
        f"{mixer}/out_proj/kernel": (IO, tokens * 16 * 8),
        "backbone/embedder/embedding": (OI, tokens * 8 * 12),
    }
    dense = {f"{mixer}/conv1d/conv/kernel": "goes into mul"}
    inputs = np.random.default_rng(0).integers(0, 12, (4, tokens)).astype(np.int32)
    return Network(net._replace(apply=apply), inputs, layers, dense)


FORMS = (by_hand, flax_linen, flax_nnx, equinox, nnx_attention, scanned_transformer, mamba2)


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def network(request):
    # The libraries promote types and ranks as they like.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        made = request.param()
        params, stats = (_filled(tree, made.layers) for tree in made.model[1:])
        yield made._replace(model=made.model._replace(params=params, stats=stats))


def _filled(tree, layers):
    """Draws kernels and fills the rest.

    In a stack each group of M has one large weight in the first slice, M - 1 in the second.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path not in layers:
            return jnp.full(leaf.shape, 0.0 if path.endswith(("bias", "mean")) else 1.0, leaf.dtype)
        axes, _ = layers[path]
        fan_in = math.prod(leaf.shape[a] for a in axes.window + axes.inputs)
        values = rng.uniform(0.5, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape)
        if axes.stack:
            first, second = (np.moveaxis(v, axes.inputs[-1] - 1, -1) for v in values)
            first[..., np.arange(first.shape[-1]) % M > 0] = 0.2
            second[..., np.arange(first.shape[-1]) % M == 0] = 0.1
        return jnp.asarray(values / fan_in**0.5, leaf.dtype)

    leaves = {path: draw(path, leaf) for path, leaf in leaves_by_path(tree).items()}
    return replace_leaves(tree, leaves)


def _layers(network):
    model = network.model

    def forward(params, inputs):
        return model.apply(params, model.stats, inputs, train=False, key=jax.random.key(0))[0]

    return dj.find_layers(forward, model.params, network.inputs, M)


def _parts(network, layers):
    """Returns masks of (params, n), and loss, stats and gradient of (params, stats, masks)."""
    model, key = network.model, jax.random.key(0)
    outputs = jax.eval_shape(
        lambda p: model.apply(p, model.stats, network.inputs, train=True, key=key)[0], model.params
    )
    labels = np.random.default_rng(1).integers(0, outputs.shape[-1], outputs.shape[:-1])

    def loss(params, stats):
        outputs, stats = model.apply(params, stats, network.inputs, train=True, key=key)
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return each.mean(), stats

    @jax.jit
    def gradient(params, stats, masks):
        return jax.value_and_grad(loss, has_aux=True)(dj.apply_masks(params, masks), stats)

    return jax.jit(lambda params, n: dj.make_masks(params, layers, n)), gradient


def _searched(network, layers, masks_of, gradient):
    """Runs the loop of the README, with a vote before every second step."""
    _, params, stats = network.model
    search = dj.domino(layers, BUDGET)
    state = search.init(params)
    decay = dj.survivor_decay(layers, penalty=2.0, every=1)
    tx = optax.chain(dj.survivors(), decay, optax.sgd(0.05))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, grads, masks, pace):
        updates, opt_state = tx.update(grads, opt_state, params, masks=masks, pace=pace)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(100):
        state = search.update(state, params)
        if state.done:
            return dj.scheme_of(layers, state)
        for _ in range(2):
            masks = masks_of(params, state.n)
            (_, stats), grads = gradient(params, stats, masks)
            params, opt_state = step(params, opt_state, grads, masks, state.pace)
    raise AssertionError(f"{state.n} after 100 votes")


def _trained(network, layers, scheme, masks_of, gradient):
    """Runs SR-STE; returns its losses, its weights and the same with zeros in place."""
    _, params, stats = network.model
    decay = optax.add_decayed_weights(5e-5)
    tx = optax.chain(dj.sr_ste(5e-4), decay, optax.sgd(0.05, 0.9))
    n, opt_state, seen = dj.n_by_path(scheme, layers), tx.init(params), []

    @jax.jit
    def step(params, opt_state, grads, masks):
        updates, opt_state = tx.update(grads, opt_state, params, masks=masks)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(6):
        masks = masks_of(params, n)
        (value, stats), grads = gradient(params, stats, masks)
        params, opt_state = step(params, opt_state, grads, masks)
        seen.append(float(value))
    return seen, params, jax.jit(dj.apply_masks)(params, masks_of(params, n))


def _groups(leaf, axes):
    """Returns the weights as [slices of the stack, groups, M], along the axes given by hand."""
    order = axes.stack + axes.window + axes.outputs + axes.inputs
    slices = math.prod(leaf.shape[axis] for axis in axes.stack)
    return np.asarray(leaf).transpose(order).reshape(slices, -1, M)


def test_any_network(network):
    layers = _layers(network)
    assert {s.path: (s.roles, s.macs) for s in layers if s.roles} == network.layers
    assert {s.path: s.reason for s in layers if s.reason} == network.dense

    parts = _parts(network, layers)
    scheme = _searched(network, layers, *parts)
    before = leaves_by_path(network.model.params)
    kept = {path: _kept(scheme, path, before[path], axes) for path, axes in _kernels(network)}
    weights = {path: before[path].size for path in kept}
    left = sum(weights[path] * np.mean(n) / M for path, n in kept.items())
    assert left <= BUDGET * sum(weights.values())
    for path, axes in _kernels(network):
        if axes.stack:
            assert kept[path][0] < kept[path][1], path

    seen, dense, sparse = _trained(network, layers, scheme, *parts)
    assert seen[-1] < seen[0]
    dense, sparse = leaves_by_path(dense), leaves_by_path(sparse)
    for path, axes in _kernels(network):
        groups, all_groups = _groups(sparse[path], axes), _groups(dense[path], axes)
        for n, found, whole in zip(kept[path], groups, all_groups, strict=True):
            assert (np.count_nonzero(found, axis=1) == n).all(), path
            largest = np.sort(np.abs(whole), axis=1)[:, M - n :]
            np.testing.assert_array_equal(np.sort(np.abs(found), axis=1)[:, M - n :], largest)
            assert np.count_nonzero(whole) == whole.size, path  # pruned weights train on
    for path in sparse.keys() - kept.keys():
        np.testing.assert_array_equal(sparse[path], dense[path])


def _kernels(network):
    return [(path, axes) for path, (axes, _) in network.layers.items()]


def _kept(scheme, path, leaf, axes):
    """Lists the N of each slice of a kernel; M where it has no groups."""
    names = [f"{path}#{i}" for i in range(leaf.shape[axes.stack[0]])] if axes.stack else [path]
    assert all(scheme[name].m == M for name in names if name in scheme)
    return [scheme[name].n if name in scheme else M for name in names]

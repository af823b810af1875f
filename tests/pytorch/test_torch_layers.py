"""Every kind of layer of torch.nn: out with equal outputs, and back to the bit, or refused by name.

A case is a small function in JAX with its parameters, and the module that PyTorch has for it. Every
layer keeps 1 of 2, and a linear head follows, so that there is always something to group.
Letters: B examples, L positions, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from domino_jax import find_layers, models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import NM
from domino_jax.pytorch import exported, state_dict
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write

SPATIAL = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
HEAD = 4


def _conv(dims, **options):
    def apply(p, x):
        strides = options.get("strides", (1,) * dims)
        rest = {k: v for k, v in options.items() if k not in ("strides", "padding")}
        x = jax.lax.conv_general_dilated(
            x,
            p["layer"]["kernel"],
            strides,
            options.get("padding", "VALID"),
            dimension_numbers=SPATIAL[dims],
            **rest,
        )
        return x + p["layer"]["bias"].reshape((1,) * (dims + 1) + (-1,))

    return apply


def _flipped(p, x):
    kernel = jnp.flip(p["layer"]["kernel"], (0, 1))
    return _conv(2)({"layer": {**p["layer"], "kernel": kernel}}, x)


def _depthwise_of_keras(p, x):
    """Stored as (H, W, C, multiplier)."""
    kernel = p["layer"]["kernel"]
    kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return _conv(2, feature_group_count=8)({"layer": {**p["layer"], "kernel": kernel}}, x)


def _transposed(dims, stride=2, **options):
    def apply(p, x):
        return jax.lax.conv_transpose(
            x,
            p["layer"]["kernel"],
            (stride,) * dims,
            "VALID",
            dimension_numbers=SPATIAL[dims],
            **options,
        )

    return apply


def _linear(p, x):
    return x @ p["layer"]["kernel"]


def _linear_turned(p, x):
    return x @ p["layer"]["kernel"].T


def _backwards(p, x):
    return x @ p["layer"]["kernel"][::-1]


def _both_ways(p, x):
    return x @ p["layer"]["kernel"] + x @ p["layer"]["kernel"][::-1]


def _bilinear(p, x):
    return jnp.einsum("bi,oij,bj->bo", x, p["layer"]["kernel"], x)


def _embedding(p, x):
    return p["layer"]["embedding"][x]


def _tied(p, x):
    x = jnp.tanh(p["layer"]["embedding"][x])
    return x @ p["layer"]["embedding"].T


def _over_time(step, size):
    def apply(p, x):
        start = jnp.zeros((x.shape[0], size), jnp.float32)
        return jax.lax.scan(
            lambda state, x: step(p["layer"], state, x), (start, start), x.swapaxes(0, 1)
        )[1].swapaxes(0, 1)

    return apply


def _lstm(p, state, x):
    h, c = state
    gates = (
        x @ p["weight_ih_l0"] + h @ p["weight_hh_l0"] + (p["bias_ih_l0"] + p["bias_hh_l0"])[None]
    )
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _gru(p, state, x):
    h, _ = state
    ours = x @ p["weight_ih_l0"] + p["bias_ih_l0"][None]
    theirs = h @ p["weight_hh_l0"] + p["bias_hh_l0"][None]
    (r, z, n), (hr, hz, hn) = jnp.split(ours, 3, -1), jnp.split(theirs, 3, -1)
    z = jax.nn.sigmoid(z + hz)
    h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h
    return (h, h), h


def _rnn(p, state, x):
    biases = (p["bias_ih_l0"] + p["bias_hh_l0"])[None]
    h = jnp.tanh(x @ p["weight_ih_l0"] + state[0] @ p["weight_hh_l0"] + biases)
    return (h, h), h


def _attend(q, k, v, heads=2):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(q, k, v)
    return mixed.reshape(*mixed.shape[:2], -1)


def _packed(p, x):
    p = p["layer"]
    q, k, v = jnp.split(x @ p["in_proj_kernel"] + p["in_proj_bias"][None, None], 3, -1)
    return _attend(q, k, v) @ p["out_proj"]["kernel"] + p["out_proj"]["bias"][None, None]


def _split(p, x):
    p, part = p["layer"], x[..., :6]
    q, k, v = x @ p["q_proj_kernel"], part @ p["k_proj_kernel"], part @ p["v_proj_kernel"]
    biases = jnp.split(p["in_proj_bias"][None, None], 3, -1)
    q, k, v = (x + bias for x, bias in zip((q, k, v), biases, strict=True))
    return _attend(q, k, v) @ p["out_proj"]["kernel"] + p["out_proj"]["bias"][None, None]


def _heads(p, x):
    x = jnp.einsum("blc,chd->blhd", x, p["layer"]["kernel"])
    return x.reshape(*x.shape[:2], -1)


def _experts(p, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layer"]["kernel"])[0]


def _conv_shapes(*kernel):
    return {"kernel": kernel, "bias": kernel[-1:]}


def _gates(count, inputs=6, size=8):
    return {
        "weight_ih_l0": (inputs, count * size),
        "weight_hh_l0": (size, count * size),
        "bias_ih_l0": (count * size,),
        "bias_hh_l0": (count * size,),
    }


def _self(module):
    """Lets an attention look at itself; with sizes of its own, keys and values at a part."""

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            part = x if module._qkv_same_embed_dim else x[..., :6]
            return self.inner(x, part, part, need_weights=False)[0]

    return Self()


OUT = {"kernel": (8, 8), "bias": (8,)}
# name -> (apply, shapes of its parameters, shape of the inputs, the module)
CASES = {
    "Linear": (_linear, {"kernel": (6, 8)}, (6,), nn.Linear(6, 8, bias=False)),
    "Linear, (out, in) in JAX": (
        _linear_turned,
        {"kernel": (8, 6)},
        (6,),
        nn.Linear(6, 8, bias=False),
    ),
    "Linear, rows backwards": (_backwards, {"kernel": (6, 8)}, (6,), nn.Linear(6, 8, bias=False)),
    "Conv1d": (_conv(1), _conv_shapes(3, 6, 8), (9, 6), nn.Conv1d(6, 8, 3)),
    "Conv2d": (
        _conv(2, strides=(2, 1)),
        _conv_shapes(3, 2, 6, 8),
        (9, 8, 6),
        nn.Conv2d(6, 8, (3, 2), stride=(2, 1)),
    ),
    "Conv2d, dilated": (
        _conv(2, rhs_dilation=(2, 2)),
        _conv_shapes(3, 3, 6, 8),
        (9, 8, 6),
        nn.Conv2d(6, 8, 3, dilation=2),
    ),
    "Conv2d, window backwards": (
        _flipped,
        _conv_shapes(3, 2, 6, 8),
        (9, 8, 6),
        nn.Conv2d(6, 8, (3, 2)),
    ),
    "Conv3d": (_conv(3), _conv_shapes(2, 3, 2, 4, 8), (5, 6, 5, 4), nn.Conv3d(4, 8, (2, 3, 2))),
    "Conv1d, grouped": (
        _conv(1, feature_group_count=2),
        _conv_shapes(3, 4, 6),
        (9, 8),
        nn.Conv1d(8, 6, 3, groups=2),
    ),
    "Conv2d, grouped": (
        _conv(2, feature_group_count=2),
        _conv_shapes(3, 3, 4, 8),
        (7, 7, 8),
        nn.Conv2d(8, 8, 3, groups=2),
    ),
    "Conv2d, depthwise": (
        _conv(2, feature_group_count=8),
        _conv_shapes(3, 3, 1, 16),
        (7, 7, 8),
        nn.Conv2d(8, 16, 3, groups=8),
    ),
    "Conv2d, depthwise as Keras keeps it": (
        _depthwise_of_keras,
        {"kernel": (3, 3, 8, 1), "bias": (8,)},
        (7, 7, 8),
        nn.Conv2d(8, 8, 3, groups=8),
    ),
    "ConvTranspose1d": (
        _transposed(1),
        {"kernel": (3, 6, 8)},
        (5, 6),
        nn.ConvTranspose1d(6, 8, 3, stride=2, bias=False),
    ),
    "ConvTranspose2d": (
        _transposed(2),
        {"kernel": (3, 2, 6, 8)},
        (5, 4, 6),
        nn.ConvTranspose2d(6, 8, (3, 2), stride=2, bias=False),
    ),
    "ConvTranspose2d, square": (
        _transposed(2),
        {"kernel": (3, 3, 8, 8)},
        (5, 4, 8),
        nn.ConvTranspose2d(8, 8, 3, stride=2, bias=False),
    ),
    "ConvTranspose2d, a convolution's gradient": (
        _transposed(2, transpose_kernel=True),
        {"kernel": (3, 2, 8, 6)},
        (5, 4, 6),
        nn.ConvTranspose2d(6, 8, (3, 2), stride=2, bias=False),
    ),
    "ConvTranspose3d": (
        _transposed(3),
        {"kernel": (2, 3, 2, 4, 8)},
        (3, 4, 3, 4),
        nn.ConvTranspose3d(4, 8, (2, 3, 2), stride=2, bias=False),
    ),
    "Embedding": (_embedding, {"embedding": (16, 8)}, (5,), nn.Embedding(16, 8)),
    "LSTM": (_over_time(_lstm, 8), _gates(4), (5, 6), nn.LSTM(6, 8, batch_first=True)),
    "RNN": (_over_time(_rnn, 8), _gates(1), (5, 6), nn.RNN(6, 8, batch_first=True)),
    "GRU": (_over_time(_gru, 8), _gates(3), (5, 6), nn.GRU(6, 8, batch_first=True)),
    "MultiheadAttention, packed": (
        _packed,
        {"in_proj_kernel": (8, 24), "in_proj_bias": (24,), "out_proj": OUT},
        (5, 8),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ),
    "MultiheadAttention, split": (
        _split,
        {
            "q_proj_kernel": (8, 8),
            "k_proj_kernel": (6, 8),
            "v_proj_kernel": (6, 8),
            "in_proj_bias": (24,),
            "out_proj": OUT,
        },
        (5, 8),
        nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
    ),
}
# name -> (apply, shapes, shape of the inputs, what is said)
REFUSED = {
    "Bilinear": (_bilinear, {"kernel": (8, 6, 6)}, (6,), "several input or output axes"),
    "grouped transposed convolution": (
        _conv(2, feature_group_count=2, lhs_dilation=(2, 2), padding=((2, 2), (2, 2))),
        _conv_shapes(3, 3, 4, 8),
        (7, 7, 8),
        "a grouped transposed convolution",
    ),
    "attention by heads": (_heads, {"kernel": (8, 2, 4)}, (5, 8), "several input or output axes"),
    "stacked kernels": (_experts, {"kernel": (3, 8, 8)}, (8,), "stacked kernels"),
    "read both ways": (_both_ways, {"kernel": (8, 8)}, (8,), "also read backwards"),
}


def _network(apply, shapes, shape):
    rng = np.random.default_rng(0)
    whole = len(shape) == 1 and "embedding" in shapes
    inputs = (
        rng.integers(0, 16, (3, *shape)).astype(np.int32)
        if whole
        else rng.normal(size=(3, *shape)).astype(np.float32)
    )
    draw = lambda shape: jnp.asarray(rng.normal(size=shape) / 3, jnp.float32)  # noqa: E731
    layer = jax.tree.map(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    one = jax.ShapeDtypeStruct((1, *shape), inputs.dtype)
    width = jax.eval_shape(apply, {"layer": layer}, one).shape[-1]
    params = {"layer": layer, "head": {"kernel": draw((width, HEAD))}}

    def network(params, x):
        x = jnp.tanh(apply(params, x))  # or the mean would not see where an output lies
        return x.mean(tuple(range(1, x.ndim - 1))) @ params["head"]["kernel"]

    layers = find_layers(network, params, one, 2)
    scheme = {layer.name: NM(1, 2) for layer in grouped(layers)}
    params = hard_mask(params, layers, n_by_path(scheme, layers))
    model = models.plain(network, params)
    return Network("mine:net", {}, model, layers, scheme, inputs, False)


class _Net(nn.Module):
    def __init__(self, layer, width, spatial):
        super().__init__()
        self.layer = _self(layer) if isinstance(layer, nn.MultiheadAttention) else layer
        self.head, self.spatial = nn.Linear(width, HEAD, bias=False), spatial

    def forward(self, x):
        x = self.layer(x.movedim(-1, 1) if self.spatial else x)
        x = x[0] if isinstance(x, tuple) else x
        x = torch.tanh(x.movedim(1, -1) if self.spatial else x)
        return self.head(x.flatten(1, -2).mean(1) if x.ndim > 2 else x)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal_and_the_weights_come_back(tmp_path, name):
    apply, shapes, shape, module = CASES[name]
    network = _network(apply, shapes, shape)
    inner = "layer.inner." if isinstance(module, nn.MultiheadAttention) else "layer."
    names = lambda path: state_dict.torch_name(path).replace("layer.", inner)  # noqa: E731
    document = write(network, tmp_path / "out", dtype="float32", names=names)
    width = network.model.params["head"]["kernel"].shape[0]
    theirs = _Net(module, width, isinstance(module, nn.modules.conv._ConvNd)).eval()
    theirs.load_state_dict(
        torch.load(tmp_path / "out" / "model.pt", weights_only=True), strict=True
    )
    held = exported.read_arrays(tmp_path / "out" / exported.SAMPLES)
    with torch.no_grad():
        found = theirs(torch.from_numpy(network.inputs.copy())).numpy()
    assert np.abs(held["logits"]).max() > 0.01
    assert np.abs(found - held["logits"]).max() <= 1e-5
    _require_every_layer(document, network)
    back, _ = state_dict.restore(
        tmp_path / "out" / "model.pt", network.model.params, {}, network.layers, names=names
    )
    for path, leaf in leaves_by_path(network.model.params).items():
        np.testing.assert_array_equal(leaves_by_path(back)[path], leaf, err_msg=path)


def _require_every_layer(document, network):
    """Modules with several weights have an entry for each; what no kernel takes runs dense."""
    entries = document["layers"].values()
    assert len(entries) == sum(layer.roles is not None for layer in network.layers)
    for entry in entries:
        packable = entry["weight"].rpartition(".")[2] in ("weight", "in_proj_weight")
        plain = entry["kind"] == "linear" or (entry["kind"] == "conv" and len(entry["kernel"]) == 2)
        if not packable or not plain or entry["groups"] > 1:
            assert not entry["sparse24"]
            assert "multiple" not in entry["why"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_does_not_keep_so_is_refused_by_name(tmp_path, name):
    apply, shapes, shape, words = REFUSED[name]
    network = _network(apply, shapes, shape)
    with pytest.raises(ValueError, match=f"layer/kernel: .*{words}") as caught:
        write(network, tmp_path / "out", dtype="float32", names=state_dict.torch_name)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_module_of_another_kind_is_refused_at_loading(tmp_path):
    """A square transposed kernel fits an nn.Conv2d, which would compute something else."""
    from domino_jax.deploy import runtime  # noqa: PLC0415

    apply, shapes, shape, module = CASES["ConvTranspose2d, square"]
    network = _network(apply, shapes, shape)
    write(network, tmp_path / "out", dtype="float32", names=state_dict.torch_name)
    right = runtime.load(_Net(module, 8, True), tmp_path / "out", "cpu", torch.float32)
    assert isinstance(right.layer, nn.ConvTranspose2d)
    other = _Net(nn.Conv2d(8, 8, 3, bias=False), 8, True)
    with pytest.raises(ValueError, match="layer: expected a module for a conv_transpose weight"):
        runtime.load(other, tmp_path / "out", "cpu", torch.float32)

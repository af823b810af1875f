"""Kinds of networks whose layers were once found wrongly, each with its siblings.

Letters: B examples, T tokens, D features, O outputs.
"""

import importlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from traced import floats

from domino_jax.core.canonical import Axes
from domino_jax.trace.activations import activation_macs
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.layers import find_layers

F = jnp.float32
IO = Axes((), (), (0,), (1,))
X = jax.ShapeDtypeStruct((2, 6, 16), F)


pytestmark = pytest.mark.usefixtures("users_promotion")


def square(*names):
    return {name: floats(16, 16) for name in names}


def counted(kernels):
    return {k.name: k.macs for k in kernels if k.roles is not None}


def reason_of(kernels, name):
    (kernel,) = [kernel for kernel in kernels if kernel.name == name]
    return kernel.reason


# What can be no kernel.


def test_what_contracts_nothing_is_no_kernel():
    def mamba(p, x):
        states = jnp.einsum("bld,dn->bldn", x @ p["i"], -jnp.exp(p["A"]))
        return states.sum(-1) @ p["o"]

    params = {"i": floats(16, 64), "A": floats(64, 16), "o": floats(64, 8)}
    layers = find_layers(mamba, params, X, 4)
    assert counted(layers) == {"i": 6 * 16 * 64, "o": 6 * 64 * 8}
    assert [layer.name for layer in layers] == ["i", "o", "A"]


@pytest.mark.parametrize("sums", ["btd,dn->btdn", "btd,td->btd", "btd,d->btd"])
def test_products_that_sum_over_nothing(sums):
    _, _, right = sums.replace("->", ",").partition(",")
    sizes = {"t": 6, "d": 16, "n": 4}
    w = floats(*(sizes[letter] for letter in right.split(",")[0]))
    kernels = find_kernels(lambda w, x: jnp.einsum(sums, x, w), w, X)
    assert counted(kernels) == {}
    for kernel in kernels:
        assert kernel.reason in (
            "only in products that sum over none of its axes",
            "goes into mul",
        )


def attention(query):
    """Attends from a learned query; `query(p)` makes it, [T, D]."""

    def apply(p, x):
        q = query(p).reshape(-1, 4, 4)
        k = (x @ p["wk"]).reshape(*x.shape[:2], 4, 4)
        weights = jax.nn.softmax(jnp.einsum("qhd,bkhd->bhqk", q, k))
        return jnp.einsum("bhqk,bkd->bqd", weights, x) @ p["wo"]

    return apply


QUERIES = {
    "bias": lambda p: p["q"] @ p["wq"] + p["b"],
    "bias of rank 2": lambda p: (p["q"] @ p["wq"]).reshape(-1, 4, 4) + p["b"].reshape(4, 4),
    "scale": lambda p: (p["q"] @ p["wq"]) * p["s"],
    "scale of one row": lambda p: (p["q"] @ p["wq"]) * p["s"].reshape(1, 16),
    "bias and scale": lambda p: (p["q"] @ p["wq"]) * p["s"] + p["b"],
    "scale of rank 2": lambda p: (p["q"] @ p["wq"]) * p["s"].reshape(1, 16) + p["b"],
    "difference": lambda p: p["b"] - p["q"] @ p["wq"],
}


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("name", QUERIES)
def test_biases_and_scales_of_a_learned_query_are_no_layers(name, tokens):
    params = square("wq", "wk", "wo") | {"q": floats(tokens, 16), "b": floats(16), "s": floats(16)}
    layers = counted(find_kernels(attention(QUERIES[name]), params, X))
    assert layers["wk"] == 6 * 256
    assert layers["wo"] == tokens * 256
    assert not layers.keys() & {"b", "s", "q"}


def test_a_bias_of_two_axes_over_a_learned_query():
    def apply(p, x):
        q = jnp.einsum("d,dhk->hk", p["q"], p["wq"]) + p["b"]
        return jnp.einsum("hk,bthk->bth", q, jnp.einsum("btd,dhk->bthk", x, p["wk"]))

    params = {"q": floats(16), "b": floats(4, 4), "wq": floats(16, 4, 4), "wk": floats(16, 4, 4)}
    kernels = find_kernels(apply, params, X)
    assert counted(kernels) == {"wq": 256, "wk": 6 * 256}
    assert reason_of(kernels, "b") == "goes into add with q, wq"


# Kernels that are scaled.


def conv(x, w, groups=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", None, None, dims, groups)


@pytest.mark.parametrize("g", [(16,), (1, 16), (16, 1), (1, 1), ()])
def test_weight_normalization_can_be_pruned(g):
    def apply(p, x):
        return x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))

    (layer, *others) = find_layers(apply, square("v") | {"g": floats(*g)}, X, 4)
    assert (layer.name, layer.roles, layer.macs, layer.candidates) == ("v", IO, 1536, (1, 2, 4))
    assert [other.reason for other in others] == ["only scales v"] * (len(g) > 1)


def length(v):
    return jnp.linalg.norm(v, axis=0, keepdims=True)


FULL_SCALES = {
    "product first": lambda g, v: g * v / length(v),
    "division first": lambda g, v: g * (v / length(v)),
    "scale divided": lambda g, v: g / length(v) * v,
    "by rsqrt": lambda g, v: v * lax.rsqrt((v * v).sum(0, keepdims=True)) * g,
    "tanh": lambda g, v: jnp.tanh(g) * v / length(v),
    "exp": lambda g, v: jnp.exp(g) * v / length(v),
    "sigmoid": lambda g, v: v * jax.nn.sigmoid(g),
    "softmax": lambda g, v: v * jax.nn.softmax(g, axis=0),
    "divisor": lambda g, v: v / g,
}


@pytest.mark.parametrize("name", FULL_SCALES)
def test_scales_of_the_shape_of_the_kernel(name):
    apply = lambda p, x: x @ FULL_SCALES[name](p["g"], p["v"])  # noqa: E731
    layer, other = find_layers(apply, square("g", "v"), X, 4)
    assert (layer.name, layer.roles, layer.macs, layer.candidates) == ("v", IO, 1536, (1, 2, 4))
    assert (other.name, other.roles) == ("g", None)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mul with b", lambda a, b: a * b),
        ("add with b", lambda a, b: a + b),
        ("sub with b", lambda a, b: a - b),
        ("sub", lambda a, b: jax.nn.softmax(a, axis=0)),
        ("mul with b", lambda a, b: a * b / (length(a) * length(b))),
    ],
)
def test_where_no_one_knows_the_kernel_one_counts_and_stays_dense(name, change):
    kernels = find_kernels(lambda p, x: x @ change(p["a"], p["b"]), square("a", "b"), X)
    assert counted(kernels) == {"a": 1536}
    assert reason_of(kernels, "a") == f"goes into {name}"


def test_weight_normalization_of_equinox():
    eqx = importlib.import_module("equinox")
    for layer, x, macs in (
        (eqx.nn.Linear(8, 4, key=jax.random.key(0)), floats(2, 8), 32),
        (eqx.nn.Conv1d(8, 4, 3, key=jax.random.key(0)), floats(2, 8, 9), 7 * 3 * 32),
    ):
        net = eqx.nn.WeightNorm(layer)
        kernels = find_layers(lambda p, x: jax.vmap(p)(x), net, x, 4)
        assert counted(kernels) == {"layer/weight": macs}
        assert kernels[0].candidates == (1, 2, 4)


def modulated(p, x):
    style = x["z"] @ p["a"]
    w = p["w"][None] * style[:, None, None, :, None]
    w = w * lax.rsqrt(jnp.sum(w**2, axis=(1, 2, 3), keepdims=True) + 1e-8)
    return jax.vmap(lambda x, w: conv(x[None], w)[0])(x["x"], w)


def modulated_by_groups(p, x):
    batch = x["x"].shape[0]
    w = p["w"][None] * (x["z"] @ p["a"])[:, None, None, :, None]
    w = jnp.moveaxis(w, 0, 3).reshape(3, 3, 8, -1)
    return conv(jnp.moveaxis(x["x"], 0, 3).reshape(1, 6, 6, -1), w, batch)


@pytest.mark.parametrize("apply", [modulated, modulated_by_groups])
def test_weights_scaled_by_an_activation(apply):
    params = {"a": floats(4, 8), "w": floats(3, 3, 8, 8)}
    inputs = {"x": floats(2, 6, 6, 8), "z": floats(2, 4)}
    layers = find_layers(apply, params, inputs, 4)
    assert counted(layers) == {"a": 32, "w": 36 * 9 * 64}
    assert all(layer.groups for layer in layers)
    assert activation_macs(apply, params, inputs) == 0


@pytest.mark.parametrize("gain", [(16,), (1, 16)])
def test_a_standardized_kernel_counts_beside_its_gain(gain):
    def apply(p, x):
        w = p["w"] - p["w"].mean(axis=0, keepdims=True)
        return x @ (w / jnp.std(w, axis=0, keepdims=True) * p["gain"])

    kernels = find_kernels(apply, square("w") | {"gain": floats(*gain)}, X)
    assert counted(kernels) == {"w": 1536}
    assert reason_of(kernels, "w") == "goes into sub"


def test_an_activation_scaled_by_a_parameter_is_no_kernel():
    params = square("w") | {"s": floats(6, 16), "t": floats(6, 1)}
    apply = lambda p, x: (x * p["s"][None] * p["t"][None]) @ p["w"]  # noqa: E731
    assert counted(find_kernels(apply, params, X)) == {"w": 1536}


# Depthwise kernels as Keras stores them.


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_kernel_of_keras_is_one_layer(multiplier):
    def apply(p, x):
        return conv(x, p["w"].reshape(3, 3, 1, -1), 8)

    (kernel,) = find_kernels(apply, {"w": floats(3, 3, 8, multiplier)}, floats(2, 6, 6, 8))
    assert (kernel.reason, kernel.macs) == ("depthwise", 36 * 9 * 8 * multiplier)
    assert kernel.roles.window == (0, 1)
    assert kernel.roles.stack == ()
    assert kernel.convolution_groups == 8


# Reasons.


def test_an_embedding_of_rank_3_is_looked_up():
    def apply(p, x):
        return jnp.einsum("bthk,hkd->btd", p["table"][x] + p["places"], p["w"])

    params = {"table": floats(20, 2, 8), "places": floats(6, 2, 8), "w": floats(2, 8, 16)}
    kernels = find_kernels(apply, params, jax.ShapeDtypeStruct((2, 6), jnp.int32))
    assert counted(kernels) == {"w": 6 * 256}
    assert reason_of(kernels, "table") == "only looked up"


def test_reasons_that_help():
    constant = jnp.ones((16, 16))

    def apply(p, x):
        x = x @ (p["w"] + p["a"] @ p["b"])
        x = jnp.abs(x @ lax.complex(p["re"], p["im"])) + jnp.abs(x @ (p["re"] + 1j * p["im"]))
        return jax.jit(lambda x: x @ constant.T)(x)

    params = square("w", "re", "im") | {"a": floats(16, 2), "b": floats(2, 16)}
    kernels = find_kernels(apply, params, X)
    reasons = {kernel.name: kernel.reason for kernel in kernels}
    assert reasons == {
        "w": "goes into add with a, b",
        "a": "multiplied with another parameter",
        "b": "multiplied with another parameter",
        "re": "part of a complex weight",
        "im": "part of a complex weight",
        "closed over: float32[16x16]": (
            "a constant of apply: a weight only if it is passed in params"
        ),
    }


# Inputs that are no batch.


def graph(p, x):
    return jax.ops.segment_sum((x["nodes"] @ p["w"])[x["edges"][:, 0]], x["edges"][:, 1], 10)


GRAPH = {"nodes": floats(10, 16), "edges": jax.ShapeDtypeStruct((30, 2), jnp.int32)}


def test_inputs_without_a_batch_axis():
    assert counted(find_kernels(graph, square("w"), GRAPH, batched=False)) == {"w": 10 * 256}
    image = lambda p, x: conv(x[None], p["w"])  # noqa: E731
    (kernel,) = find_kernels(image, {"w": floats(3, 3, 4, 4)}, floats(6, 6, 4), batched=False)
    assert kernel.macs == 36 * 9 * 16
    time_major = lambda p, x: jnp.einsum("tbd,do->tbo", x, p["w"])  # noqa: E731
    assert counted(find_kernels(time_major, square("w"), floats(6, 3, 16), batched=1)) == {
        "w": 1536
    }


def keyed(p, x):
    return x["x"] @ p["w"] + jax.random.normal(x["key"], (1, 1, 16))


def test_only_some_inputs_have_a_batch_axis():
    inputs = {"x": X, "key": jax.ShapeDtypeStruct((2,), jnp.uint32)}
    batched = {"x": True, "key": False}
    assert counted(find_kernels(keyed, square("w"), inputs, batched=batched)) == {"w": 1536}
    assert activation_macs(keyed, square("w"), inputs, batched=batched) == 0
    with pytest.raises(ValueError, match=r"not one example of them .*batched="):
        find_kernels(keyed, square("w"), inputs)


@pytest.mark.parametrize(
    ("batched", "message"),
    [
        (True, r"one batch size, got the shapes \(30, 2\), \(10, 16\); say .* batched="),
        ({"nodes": False}, "expected a pytree prefix of the inputs"),
        (2, r"expected True, False or an axis of an input of shape \(30, 2\), got 2"),
        ("first", "expected True, False or an axis of an input"),
    ],
)
def test_wrong_batch_axes(batched, message):
    with pytest.raises(ValueError, match=message):
        find_layers(graph, square("w"), GRAPH, 4, batched=batched)


def test_a_network_that_no_input_fits_says_so_itself():
    with pytest.raises(TypeError, match="contracting dimensions"):
        find_kernels(lambda p, x: x @ p["w"], {"w": floats(9, 4)}, X)


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match=r"apply: expected a function .*, got a dict"):
        find_kernels(square("w"), lambda p, x: x @ p["w"], X)

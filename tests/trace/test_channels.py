"""Which axes can be permuted together: on drawn networks, then by permuting them.

Letters: B examples, D features, F hidden features, O outputs. D = 4, F = 8, O = 3.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from traced import floats

from domino_jax import models
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.permute import reordered
from domino_jax.trace.channels import find_channels

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
PARAMS = {"up": floats(4, 8), "bias": floats(8), "down": floats(8, 3)}
HIDDEN = {"up": (1,), "bias": (0,), "down": (0,)}

pytestmark = pytest.mark.usefixtures("users_promotion")


def hidden(p, x):
    return jax.nn.gelu(x @ p["up"] + p["bias"])


def over_time(p, x):
    """What a scan puts one after another has an order."""
    return lax.scan(lambda h, _: (0.9 * h, h.sum()), x, length=8)[1] @ p["down"]


def joined(p, x):
    return jnp.concatenate([x @ p["a"], x @ p["b"]], 1) @ p["down"]


@pytest.mark.parametrize(
    ("apply", "params"),
    [
        (over_time, {"down": floats(8, 3)}),
        (joined, {"a": floats(4, 4), "b": floats(4, 4), "down": floats(8, 3)}),
    ],
)
def test_what_is_put_side_by_side_stays(apply, params):
    assert find_channels(apply, params, X) == ()


def softmax(p, x):
    h = jax.nn.softmax(hidden(p, x))
    return (h - h.mean(-1, keepdims=True)) @ p["down"]


def rolled(p, x):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h + p["bias"]), x @ p["up"]) @ p["down"]


def chosen(p, x):
    h = x @ p["up"]
    return lax.cond(x.sum() > 0, lambda h: h + p["bias"], lambda h: h * 2, h) @ p["down"]


def concatenated(p, x):
    h = hidden(p, x)
    return jnp.concatenate([h, h])[:2] @ p["down"]


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: hidden(p, x) @ p["down"],
        lambda p, x: jax.checkpoint(hidden)(p, x) @ p["down"],
        lambda p, x: jnp.einsum("bf,fo->ob", jnp.maximum(hidden(p, x), 0.1), p["down"]),
        lambda p, x: hidden(p, x).reshape(2 * x.shape[0] // 2, 1, 8) @ p["down"],
        lambda p, x: jnp.pad(hidden(p, x), ((1, 0), (0, 0)))[:, None] @ p["down"],
        lambda p, x: jax.vmap(lambda row: hidden(p, row) @ p["down"])(x),
        softmax,
        rolled,
        chosen,
        concatenated,
    ],
)
def test_what_lies_between_two_products(apply):
    assert find_channels(apply, PARAMS, X) == (HIDDEN,)


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: jnp.cumsum(hidden(p, x), 1) @ p["down"],
        lambda p, x: jnp.flip(hidden(p, x), 1) @ p["down"],
        lambda p, x: (hidden(p, x) * jnp.arange(8.0)) @ p["down"],
        lambda p, x: (hidden(p, x) * np.linspace(0, 1, 8, dtype="float32")) @ p["down"],
        lambda p, x: jnp.sort(hidden(p, x)) @ p["down"],
        lambda p, x: jnp.concatenate([hidden(p, x)[:, :2], hidden(p, x)[:, 2:]], 1) @ p["down"],
        lambda p, x: hidden(p, x).reshape(-1, 2, 4).swapaxes(1, 2).reshape(-1, 8) @ p["down"],
        lambda p, x: (hidden(p, x) + jnp.concatenate([x, x], 1)) @ p["down"],
        lambda p, x: (hidden(p, x) @ p["down"], hidden(p, x)),
        lambda p, x: (hidden(p, x)[:, hidden(p, x).argmax(1)[0]], x @ p["up"] @ p["down"]),
        lambda p, x: jnp.split(hidden(p, x), 2, 1)[0] @ p["down"][:4],
        lambda p, x: hidden(p, x)[:, 1:].sum(1, keepdims=True) + x @ p["up"] @ p["down"],
    ],
)
def test_where_the_order_matters_nothing_is_found(apply):
    assert find_channels(apply, PARAMS, X) == ()


def test_one_filter_for_each_channel():
    def apply(p, x):
        def convolve(x, w, groups=1):
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
            )

        h = lax.reduce_window(convolve(x, p["a"]), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        return convolve(convolve(h, p["depthwise"], 8), p["b"])

    params = {"a": floats(3, 3, 4, 8), "depthwise": floats(3, 3, 1, 8), "b": floats(1, 1, 8, 3)}
    found = find_channels(apply, params, jax.ShapeDtypeStruct((2, 6, 6, 4), jnp.float32))
    assert {"a": (3,), "depthwise": (3,), "b": (2,)} in found


def test_a_stack_that_is_scanned():
    def apply(p, x):
        def block(x, w):
            return x + jnp.tanh(x @ w[0]) @ w[1], None

        return lax.scan(block, x @ p["in"], (p["up"], p["down"]))[0] @ p["out"]

    params = {
        "in": floats(4, 6),
        "up": floats(3, 6, 8),
        "down": floats(3, 8, 6),
        "out": floats(6, 2),
    }
    inner, residual = find_channels(apply, params, X)
    assert residual == {"in": (1,), "up": (1,), "down": (2,), "out": (0,)}
    assert inner == {"up": (2,), "down": (1,)}


def weights_of(name, options):
    """The network, its weights and statistics (drawn: fresh ones are zeros and ones), inputs."""
    tokens = name == "byte_lm"
    shape, dtype = ((2, 16), jnp.uint8) if tokens else ((2, 16, 16, 3), jnp.float32)
    example, rng = jax.ShapeDtypeStruct(shape, dtype), np.random.default_rng(0)
    model = models.create(name, example=example, classes=7, seed=0, **options)
    inputs = rng.integers(0, 256, shape) if tokens else rng.normal(size=shape)
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype),
        {"params": model.params, "stats": model.stats},
    )

    def apply(weights, inputs):
        return model.apply(weights["params"], weights["stats"], inputs, train=False, key=None)[0]

    return apply, weights, jnp.asarray(inputs, dtype)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet8", {"widths": (4, 8, 8)}, 3),
        ("resnet18", {"widths": (4, 8, 8, 8)}, 12),
        ("byte_lm", {"depth": 2, "width": 16, "heads": 2}, 3),
    ],
)
def test_our_networks_compute_the_same(name, options, count):
    apply, weights, inputs = weights_of(name, options)
    found = find_channels(apply, weights, inputs)
    assert len(found) == count
    run, rng = jax.jit(apply), np.random.default_rng(1)
    sizes = {path: leaf.shape for path, leaf in leaves_by_path(weights).items()}
    after = weights
    for channels in found:
        path, axes = next(iter(channels.items()))
        after = reordered(after, channels, rng.permutation(sizes[path][axes[0]]))
    expected = run(weights, inputs)
    np.testing.assert_allclose(run(after, inputs), expected, atol=1e-5 * jnp.abs(expected).max())

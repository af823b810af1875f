"""Channels in another order: the network computes the same, and N:M keeps more."""

import itertools

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from jax import lax

from domino_jax.core import permute
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel
from domino_jax.core.masks import top_n
from domino_jax.core.permute import permute_channels

IO, HWIO = Axes((), (), (0,), (1,)), Axes((), (0, 1), (2,), (3,))
RNG = np.random.default_rng(0)
PARAMS = {
    "conv1": jnp.asarray(RNG.normal(size=(3, 3, 2, 8)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=8), jnp.float32),
    "scale": jnp.asarray(RNG.normal(size=8), jnp.float32),
    "conv2": jnp.asarray(RNG.normal(size=(3, 3, 8, 3)), jnp.float32),
    "skip": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
}
LAYERS = (
    made.layer("conv1", (3, 3, 2, 8), HWIO, 4, reason="too few inputs"),
    made.layer("conv2", (3, 3, 8, 3), HWIO, 4, (1, 2, 4)),
    made.layer("skip", (8, 3), IO, 4, (1, 2, 4)),
)
N = {"conv2": np.int32(2), "skip": np.int32(1)}
CHANNELS = {"conv1": 3, "bias": 0, "scale": 0, "conv2": 2, "skip": 0}


def network(params, inputs):
    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    hidden = convolve(inputs, params["conv1"]) + params["bias"][None, None, None]
    hidden = jax.nn.relu(hidden) * params["scale"][None, None, None]
    return convolve(hidden, params["conv2"]) + hidden @ params["skip"]


def kept(params):
    """Counts with the masks themselves what the consumers keep."""
    both = (("conv2", HWIO), ("skip", IO))
    masks = {path: top_n(params[path], N[path], 4, axes) for path, axes in both}
    return sum(float(jnp.abs(params[path])[mask].sum()) for path, mask in masks.items())


def test_the_outputs_stay_and_more_is_kept():
    found = permute_channels(PARAMS, LAYERS, N, CHANNELS)
    inputs = jnp.asarray(RNG.normal(size=(2, 4, 4, 2)), jnp.float32)
    np.testing.assert_allclose(network(found.params, inputs), network(PARAMS, inputs), atol=1e-5)
    assert sorted(found.order) == list(range(8))
    assert found.kept == pytest.approx((kept(PARAMS), kept(found.params)), rel=1e-5)
    assert found.kept[1] > found.kept[0]
    np.testing.assert_array_equal(found.params["bias"], PARAMS["bias"][found.order])


def test_the_best_swap_on_paper():
    """1:2 of (9, 8 | 1, 2) keeps 9 + 2; with one of each in a group it keeps 9 + 8."""
    params = {"w": jnp.array([9.0, 8.0, 1.0, 2.0])[:, None], "b": jnp.arange(4.0)}
    layers = (made.layer("w", (4, 1), IO, 4, (1, 2)),)
    found = permute_channels(params, layers, {"w": np.int32(1)}, {"w": 0, "b": 0})
    assert found.kept == (11.0, 17.0)
    assert params["w"][found.order, 0].tolist() == found.params["w"][:, 0].tolist()
    assert found.params["b"].tolist() == found.order.tolist()


def test_slices_of_a_stack_take_their_n_along():
    """The experts of e are the inputs of w: what each keeps stays its own."""
    params = {
        "w": jnp.array([9.0, 8.0, 1.0, 2.0])[:, None],
        "e": jnp.arange(32.0).reshape(2, 4, 4, 1),
    }
    stacked = Axes((0, 1), (), (2,), (3,))
    layers = (
        made.layer("w", (4, 1), IO, 4, (1, 2)),
        *(made.layer(f"e#{i}", (4, 1), stacked, 4, (1, 2)) for i in range(8)),
    )
    n = {"w": np.int32(1), "e": np.array([[1, 2, 2, 1], [2, 1, 2, 2]])}
    found = permute_channels(params, layers, n, {"w": 0, "e": 1})
    assert found.kept == (11.0, 17.0)
    np.testing.assert_array_equal(found.n["e"], n["e"][:, found.order])
    np.testing.assert_array_equal(found.params["e"], params["e"][:, found.order])
    assert found.n["w"] == 1
    for some in ({"w": np.int32(1)}, {"w": np.int32(1), "e": np.int32(2)}):
        assert permute_channels(params, layers, some, {"w": 0, "e": 1}).n == some


def test_where_nothing_is_gained_nothing_moves():
    dense = {"conv2": np.int32(4), "skip": np.int32(4)}
    for passes in (1, 2):  # a swap back and forth is none either
        found = permute_channels(PARAMS, LAYERS, dense, CHANNELS, passes=passes)
        assert found.order.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ({"conv3": 0}, "unknown parameter 'conv3'; nearest: conv"),
        ({"conv2": 2, "conv1": 2}, "axes of one size, got conv2 axis 2: 8, conv1 axis 2: 2"),
        ({"conv2": 7}, r"conv2: expected an axis of its shape \(3, 3, 8, 3\), got 7"),
        ({"conv1": 3, "bias": 0}, "expected a kernel with groups along its axis among them"),
    ],
)
def test_impossible_channels_are_refused(channels, said):
    with pytest.raises(InputError, match=said):
        permute_channels(PARAMS, LAYERS, N, channels)


def test_groups_over_several_axes_are_refused():
    layers = (made.layer("skip", (8, 3), Axes((), (), (0, 1), ()), 4, (1, 4)),)
    with pytest.raises(InputError, match=r"skip: expected groups along axis 0 alone"):
        permute_channels(PARAMS, layers, {"skip": np.int32(1)}, {"skip": 0})


def test_every_swap_is_weighed_right():
    """Against the masks themselves: short groups, ties, every n, a stack with n of its own."""
    axes = Axes((1,), (), (0,), (2,))
    scores = jnp.asarray(RNG.integers(0, 4, (10, 2, 3)), jnp.float32)
    for n in ([1, 3], [2, 4]):
        part = permute._part(scores, np.array(n), Kernel(axes, 4, (None, None)))
        one, other = np.array([0, 5, 2, 7]), np.array([8, 3])
        gains = permute._exchanged(part, one, other) + permute._exchanged(part, other, one).T
        for a, b in itertools.product(range(4), range(2)):
            swapped = one.copy(), other.copy()
            swapped[0][a], swapped[1][b] = other[b], one[a]
            now, then = (
                sum(float(rows[top_n(rows, np.array(n), 4, axes)].sum()) for rows in pair)
                for pair in ([scores[one], scores[other]], [scores[each] for each in swapped])
            )
            assert gains[a, b] == pytest.approx(then - now)


def test_scores_say_what_is_kept():
    params = {"w": jnp.array([9.0, 8.0, 1.0, 2.0])[:, None]}
    layers = (made.layer("w", (4, 1), IO, 4, (1, 2)),)
    even = permute_channels(
        params, layers, {"w": np.int32(1)}, {"w": 0}, scores={"w": 1 / params["w"]}
    )
    assert even.kept == pytest.approx((1 / 8 + 1, 1.5))


def test_a_kernel_that_makes_and_reads_the_same_channels():
    params = {"w": jnp.asarray(RNG.normal(size=(8, 8)), jnp.float32)}
    layers = (made.layer("w", (8, 8), IO, 4, (1, 2)),)
    found = permute_channels(params, layers, {"w": np.int32(1)}, {"w": (0, 1)})
    np.testing.assert_array_equal(found.params["w"], params["w"][found.order][:, found.order])
    assert found.kept[1] > found.kept[0]


def test_groups_of_several_sizes_are_refused():
    layers = (
        made.layer("conv2", (3, 3, 8, 3), HWIO, 4, (1, 2, 4)),
        made.layer("skip", (8, 3), IO, 4, (1, 2)),
    )
    channels = {"conv2": 2, "skip": 0}
    with pytest.raises(InputError, match=r"consumers of one M, got \{'conv2': 4, 'skip': 2\}"):
        permute_channels(PARAMS, layers, {"conv2": np.int32(1), "skip": np.int32(1)}, channels)

"""Masks against hand-drawn groups and against a plain numpy sort."""

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from domino_jax.core import canonical, masks
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.masked import apply_masks, make_masks

CONV = Axes((), (0, 1), (2,), (3,))  # HWIO
DENSE = Axes((), (), (0,), (1,))  # IO


def column(*values, dtype=jnp.float32):
    return jnp.array(values, dtype)[:, None]


def kept(w, n, m, axes=DENSE):
    return np.asarray(masks.top_n(w, n, m, axes))


def by_sorting(w, n, m, axes):
    """The same mask by a stable numpy sort, one group at a time."""
    w = np.asarray(w, np.float64)
    view = w.transpose(axes.order)
    sizes = [[w.shape[a] for a in part] for part in (axes.stack, axes.window, axes.inputs)]
    s, k, i = (int(np.prod(part)) for part in sizes)
    view = np.abs(view.reshape(s, k, i, -1))
    keep = np.zeros(view.shape, bool)
    for index in np.ndindex(s, k, view.shape[3]):
        lane = view[index[0], index[1], :, index[2]]
        for start in range(0, i, m):
            group = np.where(np.isnan(lane[start : start + m]), np.inf, lane[start : start + m])
            best = np.argsort(-group, kind="stable")[: np.broadcast_to(n, s)[index[0]]]
            keep[index[0], index[1], start + best, index[2]] = True
    ordered = keep.reshape([w.shape[a] for a in axes.order])
    return ordered.transpose(np.argsort(axes.order))


def largest(w, kept, axes):
    """The largest of each slice by a stable numpy sort."""
    w = np.asarray(w, np.float64)
    view = np.abs(w.transpose(axes.order))
    slices = view.reshape(int(np.prod([w.shape[a] for a in axes.stack])), -1)
    keep = np.zeros(slices.shape, bool)
    for row, count in enumerate(np.broadcast_to(kept, len(slices))):
        keep[row, np.argsort(-np.nan_to_num(slices[row], nan=np.inf), kind="stable")[:count]] = True
    return keep.reshape(view.shape).transpose(np.argsort(axes.order))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "axes", "kept"),
    [
        ((5, 7), DENSE, 1),
        ((5, 7), Axes((), (), (1,), (0,)), 34),
        ((3, 3, 5, 7), CONV, 100),
        ((5, 3, 7), Axes((1,), (), (2,), (0,)), (1, 17, 35)),
    ],
)
def test_the_largest_of_a_slice_as_by_sorting(shape, axes, kept, dtype):
    whole = np.random.default_rng(0).integers(-6, 7, shape)  # many ties, zeros
    for values in (whole, np.random.default_rng(1).normal(size=shape), np.zeros(shape)):
        w = jnp.asarray(values, dtype)
        mask = jax.jit(masks.top_k, static_argnums=2)(w, np.int32(kept), axes)
        np.testing.assert_array_equal(mask, largest(w, kept, axes))


def test_a_nan_is_among_the_largest_of_a_slice():
    w = column(1, np.nan, np.inf, 5)
    assert np.asarray(masks.top_k(w, 1, DENSE))[:, 0].tolist() == [False, True, False, False]


def test_two_of_four():
    w = column(1, -4, 3, 2, 0, 0, -5, 1)
    assert kept(w, 2, 4)[:, 0].tolist() == [False, True, True, False, False, False, True, True]


def test_ties_go_to_the_lower_index():
    assert kept(column(1, -1, 1, -1), 2, 4)[:, 0].tolist() == [True, True, False, False]
    assert kept(column(0, 0, 0, 0), 1, 4)[:, 0].tolist() == [True, False, False, False]


def test_nan_counts_as_infinite():
    nan, inf = np.nan, np.inf
    assert kept(column(1, inf, 2, nan), 2, 4)[:, 0].tolist() == [False, True, False, True]
    assert kept(column(nan, inf, nan, 3), 2, 4)[:, 0].tolist() == [True, True, False, False]


def test_groups_follow_the_inputs_not_the_outputs():
    w = jnp.array([[9.0, 1.0], [8.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    assert kept(w, 2, 4).T.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert kept(w.T, 2, 4, Axes((), (), (1,), (0,))).tolist() == kept(w, 2, 4).T.tolist()


def test_padding_keeps_all_of_a_short_group():
    w = column(3, 2, 1, 0, 0, 0)  # groups of 4: the second holds two weights
    assert kept(w, 2, 4)[:, 0].tolist() == [True, True, False, False, True, True]
    assert masks.thresholds(w, 4, DENSE).reshape(-1).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("m", [2, 3, 4, 5, 8, 16, 32, 64])
def test_agrees_with_sorting(m, dtype):
    axes = Axes((2,), (4,), (3, 0), (1,))
    rng = np.random.default_rng(m)
    # Few distinct values: many ties.
    w = jnp.asarray(rng.integers(-9, 10, (m, 5, 2, 3, 2)) / 4, dtype)
    for n in {1, m // 2, m - 1, m}:
        assert np.array_equal(kept(w, n, m, axes), by_sorting(w, n, m, axes))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("m", [2, 3, 4, 8, 16])
def test_scores_are_ordered_by_value(m, dtype):
    axes = Axes((), (), (0,), (1,))
    scores = np.random.default_rng(m).integers(-9, 10, (m + 1, 6)) / 4  # a short last group
    scores[0, 0], scores[1, 1] = np.nan, -np.inf
    for n in {1, m // 2, m - 1, m}:
        mask = np.asarray(masks.top_scores(jnp.asarray(scores, dtype), n, m, axes))
        # Shifted above zero, values are magnitudes.
        assert np.array_equal(mask, by_sorting(np.maximum(scores, -99) + 100, n, m, axes))


def test_each_slice_has_its_own_n_and_n_is_traced():
    axes = Axes((0,), (), (1,), (2,))
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 4)), jnp.float32)
    traces = []

    @jax.jit
    def f(w, n):
        traces.append(n)
        return masks.top_n(w, n, 4, axes)

    for n in ([1, 2, 4], [3, 3, 1]):
        mask = f(w, jnp.array(n, jnp.int32))
        assert np.array_equal(mask, by_sorting(w, n, 4, axes))
        assert mask.sum((1, 2)).tolist() == [k * 2 * 4 for k in n]
    assert len(traces) == 1


def test_thresholds_are_the_mean_of_the_smaller_half():
    w = column(1, -4, 3, 2, 8, 8, 8, 8)
    assert masks.thresholds(w, 4, DENSE).reshape(-1).tolist() == [1.5, 8.0]
    assert masks.thresholds(column(5, 1, 3), 3, DENSE).reshape(-1).tolist() == [1.0]
    assert masks.thresholds(w.astype(jnp.bfloat16), 4, DENSE).dtype == jnp.float32


def test_counts_groups_with_fewer_than_n_above_threshold():
    w = column(1, -4, 3, 2, 8, 8, 8, 8)
    threshold = masks.thresholds(w, 4, DENSE)  # 3 of 4 above 1.5; 0 of 4 above 8
    counts = [int(masks.count_short(w, n, threshold, 4, DENSE)) for n in (1, 3, 4)]
    assert counts == [1, 1, 2]
    assert masks.count_short(w, 1, threshold, 4, DENSE).shape == ()
    stacked = Axes((0,), (), (1,), (2,))
    both = jnp.stack([w, w])
    counts = masks.count_short(
        both, jnp.array([3, 4]), masks.thresholds(both, 4, stacked), 4, stacked
    )
    assert counts.tolist() == [1, 2]


def test_norms_and_spread_follow_the_stack_axes():
    w = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 3)
    axes = Axes((2, 0), (), (1,), ())
    norms = masks.slice_norms(w, axes)
    expected = np.linalg.norm(np.asarray(w).transpose(2, 0, 1).reshape(6, 4), axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    spread = canonical.spread(norms, w.shape, axes)
    assert spread.shape == (2, 1, 3)
    assert spread[1, 0, 2] == norms[2 * 2 + 1]
    assert (
        canonical.spread(jnp.float32(2), w.shape, axes).tolist() == np.full((2, 1, 3), 2).tolist()
    )
    assert masks.slice_norms(w, Axes((), (), (0, 1), (2,))).shape == ()


def test_no_sort_in_the_compiled_mask():
    w = jnp.zeros((3, 3, 32, 8))
    text = jax.jit(lambda w, n: masks.top_n(w, n, 16, CONV)).lower(w, jnp.int32(4)).as_text()
    assert "sort" not in text
    assert "top_k" not in text


def test_sums_by_rank_add_up_what_top_n_removes():
    rng = np.random.default_rng(0)
    axes = Axes((0,), (1,), (2,), (3,))
    w = jnp.asarray(rng.normal(size=(2, 3, 10, 5)), jnp.float32)  # 10 inputs: a short last group
    value = jnp.asarray(rng.exponential(size=w.shape), jnp.float32)
    sums = np.asarray(masks.sums_by_rank(w, value, 4, axes))
    assert sums.shape == (2, 4)
    for n in range(1, 5):
        removed = np.where(kept(w, n, 4, axes), 0, np.asarray(value)).sum((1, 2, 3))
        assert np.allclose(sums[:, n:].sum(1), removed, rtol=1e-5)


@pytest.mark.parametrize(
    "n",
    [0, 5, -1, 2.5, True, None, "2", np.nan, np.float32(2), np.int32(0), jnp.int32(5), 10**10],
)
def test_counts_that_no_group_has(n):
    layers = (made.layer("w", (8, 2), DENSE, 16, (1, 2, 4)),)
    with pytest.raises(InputError, match=r"^w: expected the number of weights to keep of every 4"):
        make_masks({"w": jnp.ones((8, 2))}, layers, {"w": n})


@pytest.mark.parametrize("n", [[1, 5], [0, 1]])
def test_counts_that_no_slice_has(n):
    axes = Axes((0,), (), (1,), (2,))
    layers = tuple(made.layer(f"w#{i}", (4, 2), axes, 16, (1, 2, 4)) for i in range(2))
    with pytest.raises(InputError, match=rf"^w: expected the number .* got \[{n[0]}, {n[1]}\]"):
        make_masks({"w": jnp.ones((2, 4, 2))}, layers, {"w": np.array(n)})


def test_masks_of_another_shape_or_of_nothing():
    params = {"w": jnp.ones((8, 2))}
    with pytest.raises(
        InputError, match=r"w: expected a mask of the shape \(8, 2\), got \(1, 8, 2\)"
    ):
        apply_masks(params, {"w": jnp.ones((1, 8, 2), bool)})
    with pytest.raises(InputError, match="unknown parameter in the masks 'c'"):
        apply_masks(params, {"c": jnp.ones((8, 2), bool)})

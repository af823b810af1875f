"""What is said of groups is the same however a kernel lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.core import canonical, masks
from domino_jax.core.canonical import Axes

STACKED = Axes((0, 1), (2, 3), (4, 5), (6, 7))  # as the canonical view has them
SHAPE = (2, 1, 3, 1, 2, 5, 2, 3)  # 10 inputs: the last group of 4 is short
# PyTorch's and Equinox's kernels lie by outputs; einsums put axes anywhere.
LAYOUTS = {
    "as ever": (0, 1, 2, 3, 4, 5, 6, 7),
    "inputs last": (0, 1, 2, 3, 6, 7, 4, 5),
    "window last": (0, 1, 6, 7, 4, 5, 2, 3),
    "stack last": (2, 3, 4, 5, 6, 7, 1, 0),
    "inputs first": (4, 5, 7, 6, 0, 3, 2, 1),
    "inputs apart": (4, 0, 6, 1, 5, 2, 7, 3),
    "inputs turned": (0, 1, 2, 3, 5, 4, 6, 7),
}


def laid_out(order: tuple[int, ...]) -> Axes:
    """The axes of a kernel that was transposed by the order."""
    places = [order.index(axis) for axis in range(len(order))]
    parts = (STACKED.stack, STACKED.window, STACKED.inputs, STACKED.outputs)
    return Axes(*(tuple(places[axis] for axis in part) for part in parts))


def masks_of(w, n, pruned, m, axes):
    return (
        masks.top_n(w, n, m, axes),
        masks.top_scores(w, n, m, axes),
        masks.top_n_where(w, n, pruned, m, axes),
        masks.top_k(w, jnp.array([7, 50]), axes),
    )


def values_of(w, other, n, threshold, m, axes):
    return (
        masks.thresholds(w, m, axes),
        masks.thresholds_among(w, n, m, axes),
        masks.group_sums(w, m, axes),
        masks.magnitudes(w, m, axes),
        masks.count_short(w, n, threshold, m, axes),
        masks.most_nonzeros(jnp.maximum(w, 0), m, axes),
        masks.sums_by_rank(w, other, m, axes),
        masks.slice_norms(w, axes),
    )


@pytest.mark.parametrize("order", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("m", [4, 16])
def test_the_layout_changes_nothing(m, order):
    w = jax.random.normal(jax.random.key(m), SHAPE)
    other = jnp.exp(jax.random.normal(jax.random.key(1), SHAPE))
    n = jnp.array([1, 3])
    threshold = masks.thresholds(w, m, STACKED)
    pruned = threshold > jnp.median(threshold)
    turned, axes = w.transpose(order), laid_out(order)

    marks = jax.jit(masks_of, static_argnums=(3, 4))
    expected = marks(w, n, pruned, m, STACKED)
    for found, canonically in zip(marks(turned, n, pruned, m, axes), expected, strict=True):
        np.testing.assert_array_equal(found, canonically.transpose(order))
    values = jax.jit(values_of, static_argnums=(4, 5))
    expected = values(w, other, n, threshold, m, STACKED)
    found = values(turned, other.transpose(order), n, threshold, m, axes)
    for one, canonically in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, canonically, rtol=1e-6)


def test_groups_lie_where_the_kernel_has_them():
    kernel = jnp.arange(12).reshape(2, 6)  # [O, I]
    axes = Axes((), (), (1,), (0,))
    groups = canonical.in_groups(kernel, 4, axes, filler=-1)
    assert groups.tolist() == [[[0, 1, 2, 3], [4, 5, -1, -1]], [[6, 7, 8, 9], [10, 11, -1, -1]]]
    assert canonical.axis_of_m(axes) == 2
    assert canonical.ungroup(groups, kernel.shape, axes).tolist() == kernel.tolist()
    firsts = canonical.from_groups(groups[:, :, 0], kernel.shape, axes)
    assert firsts.tolist() == [[[[0, 6], [4, 10]]]]  # [S, W, G, O]
    assert canonical.to_groups(firsts, kernel.shape, axes)[:, :, 0].tolist() == [[0, 4], [6, 10]]


def test_each_slice_meets_its_own_n():
    kernel = jnp.zeros((3, 8, 2))  # [O, I, S]
    axes = Axes((2,), (), (1,), (0,))
    n = canonical.per_slice(jnp.array([1, 2]), kernel.shape, axes)
    assert n.shape == (1, 1, 1, 2)
    assert n.ravel().tolist() == [1, 2]


def test_window_axes_that_follow_each_other_are_one():
    shape, axes = canonical.one_window((7, 3, 5, 8, 4), Axes((0,), (1, 2), (3,), (4,)))
    assert (shape, axes) == ((7, 15, 8, 4), Axes((0,), (1,), (2,), (3,)))
    shape, axes = canonical.one_window((4, 8, 3, 5), Axes((), (2, 3), (1,), (0,)))
    assert (shape, axes) == ((4, 8, 15), Axes((), (2,), (1,), (0,)))
    apart = Axes((), (0, 2), (1,), (3,))
    assert canonical.one_window((3, 8, 5, 4), apart) == ((3, 8, 5, 4), apart)

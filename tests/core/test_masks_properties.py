"""What holds of any mask: exactly N, the largest; the same however it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from domino_jax.core import masks
from domino_jax.core.canonical import Axes

# Few shapes, each compiled once: (shape, axes, M); the third has short last groups.
KERNELS = (
    ((3, 2, 8, 4), Axes((), (0, 1), (2,), (3,)), 4),
    ((6, 16), Axes((), (), (1,), (0,)), 16),
    ((10, 4), Axes((), (), (0,), (1,)), 3),
    ((2, 5, 2), Axes((), (1,), (2, 0), ()), 2),
)
STACKED = ((2, 8, 4), Axes((0,), (), (1,), (2,)), 4)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, np.inf, -np.inf, np.nan)


def weights_of(shape):
    """Few values, so that many are equal; those that floats are known for among them."""
    numbers = st.sampled_from(SPECIAL) | st.integers(-3, 3).map(float)
    size = int(np.prod(shape))
    return st.lists(numbers, min_size=size, max_size=size).map(
        lambda values: np.array(values, np.float32).reshape(shape)
    )


@st.composite
def cases(draw, kernels=KERNELS):
    shape, axes, m = draw(st.sampled_from(kernels))
    return draw(weights_of(shape)), draw(st.integers(1, m)), m, axes


jitted = jax.jit(masks.top_n, static_argnums=(2, 3))


def top_n(w, n, m, axes):
    return np.asarray(jitted(w, n, m, axes))


def groups_of(array, m, axes):
    """Lists the groups, each in order: the definition in words, without a reshape of ours."""
    sizes = [array.shape[axis] for axis in axes.order]
    parts = (axes.stack, axes.window, axes.inputs, axes.outputs)
    s, w, i, o = (int(np.prod([array.shape[a] for a in part], dtype=int)) for part in parts)
    lanes = array.transpose(axes.order).reshape(sizes).reshape(s * w, i, o)
    return [
        lane[start : start + m, out]
        for lane in lanes
        for out in range(o)
        for start in range(0, i, m)
    ]


@given(cases())
def test_exactly_n_of_every_m_are_kept_and_they_are_the_largest(case):
    w, n, m, axes = case
    mask = top_n(w, n, m, axes)
    size = np.where(np.isnan(w), np.inf, np.abs(w.astype(np.float64)))
    for kept, sizes in zip(groups_of(mask, m, axes), groups_of(size, m, axes), strict=True):
        assert kept.sum() == min(n, len(kept))
        if not kept.all():
            least, most = sizes[kept].min(), sizes[~kept].max()
            assert least >= most
            tied_kept, tied_gone = (np.flatnonzero(k & (sizes == most)) for k in (kept, ~kept))
            assert least > most or tied_kept.max() < tied_gone.min()


@given(cases())
def test_a_masked_kernel_has_the_same_mask(case):
    w, n, m, axes = case
    mask = top_n(w, n, m, axes)
    assert np.array_equal(top_n(np.where(mask, w, np.float32(0)), n, m, axes), mask)


@given(cases(), st.randoms(use_true_random=False))
def test_outputs_that_change_places_take_their_masks_along(case, random):
    w, n, m, axes = case
    if not axes.outputs:
        return
    (axis,) = axes.outputs
    order = random.sample(range(w.shape[axis]), w.shape[axis])
    moved = top_n(w.take(order, axis), n, m, axes)
    assert np.array_equal(moved, top_n(w, n, m, axes).take(order, axis))


scored = jax.jit(masks.top_scores, static_argnums=(2, 3))


@given(cases())
def test_signs_and_scale_say_nothing(case):
    w, n, m, axes = case
    mask = top_n(w, n, m, axes)
    assert np.array_equal(top_n(-w, n, m, axes), mask)
    scores = np.asarray(scored(np.abs(w), n, m, axes))
    assert np.array_equal(scores, mask)


@given(cases(KERNELS[2:3]))
def test_operation_by_operation_is_the_same(case):
    w, n, m, axes = case
    assert np.array_equal(masks.top_n(jnp.asarray(w), n, m, axes), top_n(w, n, m, axes))


SLICE = Axes((), (), (0,), (1,))
vmapped = jax.jit(jax.vmap(lambda w, n: masks.top_n(w, n, STACKED[2], SLICE)))


@given(weights_of(STACKED[0]), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_vmap_and_a_stack_are_slice_by_slice(w, n):
    _, axes, m = STACKED
    one_by_one = np.stack([top_n(each, of, m, SLICE) for each, of in zip(w, n, strict=True)])
    assert np.array_equal(vmapped(w, np.array(n)), one_by_one)
    assert np.array_equal(top_n(w, np.array(n), m, axes), one_by_one)


_shape, _axes, _m = KERNELS[0]
_in_parts = jax.jit(
    jax.shard_map(
        lambda w, n: masks.top_n(w, n, _m, _axes),
        mesh=Mesh(jax.devices()[:2], ("outputs",)),
        in_specs=(PartitionSpec(None, None, None, "outputs"), PartitionSpec()),
        out_specs=PartitionSpec(None, None, None, "outputs"),
    )
)


@given(weights_of(_shape), st.integers(1, _m))
def test_two_devices_of_half_the_outputs_are_the_same(w, n):
    assert np.array_equal(_in_parts(w, n), top_n(w, n, _m, _axes))

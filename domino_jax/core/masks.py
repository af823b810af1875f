"""Top-n-of-M masks, and what else is said of the groups of a kernel.

Groups lie where the kernel has them, [.., G, M, ..] (`core.canonical`); padding is 0 and loses
every comparison. What is said of each group is [S, W, G, O].

Shape letters: S stack slices, W window positions, I inputs, O outputs, G groups along the inputs,
M group size. N is the number of weights kept.

NaN rule: a NaN counts as an infinite magnitude. It is kept before any finite weight, so that a
broken weight reaches the loss and is seen there, and every group still keeps exactly n.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import (
    Axes,
    axis_of_m,
    from_groups,
    from_matrices,
    in_groups,
    matrices,
    one_window,
    per_slice,
    to_groups,
    ungroup,
)
from domino_jax.core.ranks import (
    SHORT,
    at_least_float32,
    bits,
    magnitude,
    rank_of,
    sum_along,
    sum_of_marked,
    through_bits,
)

# Fewer weights beside each other make no vectors; then all groups are packed that fit an integer.
# Set by benchmarks/masks.py on CPU.
_ROW = 16
_BITS = 32


def top_n(w: jax.Array, n: jax.typing.ArrayLike, m: int, axes: Axes) -> jax.Array:
    """Marks the n largest magnitudes of each group of m; ties go to the lower index.

    A weight is kept when fewer than n weights of its group beat it (the published code keeps the
    same weights by sorting).

    Args:
        w: kernel, any floating dtype.
        n: weights kept per group, in 1..m; [S] (slices row-major), or [] for all. May be traced.
        m: group size, static.
        axes: the parts the kernel's axes play.

    Returns:
        bool, the shape of w.
    """
    return _best(bits(magnitude(w)), n, m, axes)


def top_k(w: jax.Array, kept: jax.typing.ArrayLike, axes: Axes) -> jax.Array:
    """Marks the largest magnitudes of each stack slice, wherever they lie; ties as in `top_n`.

    Args:
        w: kernel, any floating dtype.
        kept: weights kept of a slice, 1 or more; [S] (slices row-major), or [] for all. May be
            traced.
        axes: the parts the kernel's axes play.

    Returns:
        bool, the shape of w.
    """
    keys = matrices(bits(magnitude(w)), axes)  # [S, W·I, O]
    kept = jnp.broadcast_to(jnp.asarray(kept, jnp.int32).reshape(-1, 1, 1), (keys.shape[0], 1, 1))
    least = _largest(lambda key: _count(keys >= key) >= kept, kept.shape, keys.dtype)
    tied, spare = keys == least, kept - _count(keys > least)
    index = jnp.arange(keys[0].size, dtype=jnp.int32).reshape(1, *keys.shape[1:])
    end = _largest(lambda end: _count(tied & (index < end)) <= spare, kept.shape, index.dtype)
    return from_matrices((keys > least) | (tied & (index < end)), w.shape, axes)


def _count(marks: jax.Array) -> jax.Array:
    """Counts the marks of each slice: int32, [S, 1, 1]."""
    return jnp.sum(marks, axis=(1, 2), dtype=jnp.int32, keepdims=True)


def _largest(
    holds: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: np.dtype
) -> jax.Array:
    """Returns the largest integers for which `holds` is true; it is for 0 and all up to them.

    Bit by bit: a pass over the kernel each, and no sort, which takes many times as long.
    """
    places = np.iinfo(dtype).bits - 1

    def with_bit(place: jax.Array, found: jax.Array) -> jax.Array:
        higher = found | (jnp.ones([], dtype) << (places - 1 - place).astype(dtype))
        return jnp.where(holds(higher), higher, found)

    return jax.lax.fori_loop(0, places, with_bit, jnp.zeros(shape, dtype))


def top_scores(scores: jax.Array, n: jax.typing.ArrayLike, m: int, axes: Axes) -> jax.Array:
    """Marks the n largest scores of each group of m, negative ones too; ties go to the lower index.

    Args:
        scores: one for each weight of a kernel, any floating dtype; a NaN counts as the largest.
        n: as for `top_n`.
        m: group size, static.
        axes: the parts the kernel's axes play.

    Returns:
        bool, the shape of scores.
    """
    # The bits of negative floats rise as the floats fall; turned round, all rise together.
    keys = bits(jnp.where(jnp.isnan(scores), jnp.full_like(scores, jnp.inf), scores))
    lowest, largest = np.iinfo(keys.dtype).min, np.iinfo(keys.dtype).max
    keys = jnp.where(keys < 0, keys ^ largest, keys)
    # Padding ranks below -inf; one above the lowest integer, of which `rank_of` takes one away.
    return _best(keys, n, m, axes, lowest + 1)


def top_n_where(
    w: jax.Array, n: jax.typing.ArrayLike, pruned: jax.Array, m: int, axes: Axes
) -> jax.Array:
    """Marks what `top_n` marks in the groups that are pruned, and all of the others.

    Args:
        w: as for `top_n`.
        n: as for `top_n`.
        pruned: bool, [S, W, G, O].
        m: as for `top_n`.
        axes: as for `top_n`.
    """
    shape, axes = one_window(w.shape, axes)
    kept = jnp.where(to_groups(pruned, shape, axes), per_slice(n, shape, axes), jnp.int32(m))
    keys = in_groups(bits(magnitude(w.reshape(shape))), m, axes)
    return _largest_keys(keys, kept, shape, m, axes).reshape(w.shape)


def group_sums(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns the sum of the magnitudes of each group: [S, W, G, O], at least float32."""
    wide = in_groups(magnitude(w), m, axes).astype(at_least_float32(w.dtype))
    return from_groups(sum_along(wide, axis_of_m(axes)), w.shape, axes)


def _best(
    keys: jax.Array, n: jax.typing.ArrayLike, m: int, axes: Axes, filler: int = 0
) -> jax.Array:
    """Marks the n largest keys of each group; keys lie as their kernel does."""
    shape, axes = one_window(keys.shape, axes)
    groups = in_groups(keys.reshape(shape), m, axes, filler)
    return _largest_keys(groups, per_slice(n, shape, axes), shape, m, axes).reshape(keys.shape)


def _largest_keys(
    keys: jax.Array, kept: jax.Array, shape: tuple[int, ...], m: int, axes: Axes
) -> jax.Array:
    """Marks the largest keys of each group, of n that broadcast to [.., G, M, ..]."""
    axis = axis_of_m(axes)
    rank = rank_of(keys, axis)
    if m > (SHORT if math.prod(keys.shape[axis + 1 :]) >= _ROW else _BITS):
        return ungroup(rank < kept.astype(rank.dtype), shape, axes)
    # In int32: of ranks of 8 bits XLA makes no vectors where groups lie along the fastest axis.
    return ungroup(through_bits(rank.astype(jnp.int32) < kept, axis), shape, axes)


def thresholds(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns for each group the mean of its floor(m/2) smallest magnitudes (T in the paper).

    Returns:
        [S, W, G, O], the dtype of w but at least float32.
    """
    grouped = in_groups(magnitude(w), m, axes)
    axis = axis_of_m(axes)
    # Of an odd M the middle one is not among the smaller half; padding is, as the smallest of all.
    smallest = rank_of(bits(grouped), axis) >= m - m // 2
    return from_groups(sum_of_marked(grouped, smallest, axis), w.shape, axes) / (m // 2)


def thresholds_among(w: jax.Array, n: jax.typing.ArrayLike, m: int, axes: Axes) -> jax.Array:
    """Returns for each group the mean of the floor(n/2) smallest of its n largest magnitudes.

    With n = m these are `thresholds`. A network that is n:m already has zeros for the rest, and
    its smallest magnitudes say nothing.

    Returns:
        as `thresholds`; 0 where n is 1.
    """
    grouped = in_groups(magnitude(w), m, axes)
    kept = per_slice(n, w.shape, axes)
    axis = axis_of_m(axes)
    rank = rank_of(bits(grouped), axis).astype(jnp.int32)
    smallest = (rank >= kept - kept // 2) & (rank < kept)
    total = sum_of_marked(grouped, smallest, axis)
    count = jnp.maximum(kept // 2, 1).squeeze(axis).astype(total.dtype)
    return from_groups(total / count, w.shape, axes)


def most_nonzeros(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Counts the nonzeros of the group that has the most of them: int32, [S] or []."""
    is_kept = in_groups(magnitude(w), m, axes) != 0
    nonzeros = jnp.sum(is_kept, axis=axis_of_m(axes), dtype=jnp.int32)
    most = jnp.max(from_groups(nonzeros, w.shape, axes), axis=(1, 2, 3))
    return most if axes.stack else most.reshape(())


def count_short(
    w: jax.Array, n: jax.typing.ArrayLike, threshold: jax.Array, m: int, axes: Axes
) -> jax.Array:
    """Counts the groups with fewer than n weights above their threshold.

    Args:
        w: kernel.
        n: weights kept per group; [S] or [].
        threshold: [S, W, G, O], as `thresholds` gives it.
        m: group size.
        axes: the parts the kernel's axes play.

    Returns:
        int32, [S]; [] if the kernel has no stack axes.
    """
    grouped = in_groups(magnitude(w), m, axes).astype(threshold.dtype)
    # Padding is 0 and never above a threshold, which is 0 or more: a short last group is short.
    axis = axis_of_m(axes)
    is_above = grouped > to_groups(threshold, w.shape, axes)
    above = jnp.sum(is_above, axis=axis, dtype=jnp.int32)
    short = above < per_slice(n, w.shape, axes).squeeze(axis)
    counts = jnp.sum(from_groups(short, w.shape, axes), axis=(1, 2, 3), dtype=jnp.int32)
    return counts if axes.stack else counts.reshape(())


def sums_by_rank(w: jax.Array, value: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Adds up a value of each weight over the weights that are first, second, … of their group.

    `top_n` with n removes the ranks from n on.

    Args:
        w: kernel, whose magnitudes make the order.
        value: of each weight, the shape of w.
        m: group size.
        axes: the parts the kernel's axes play.

    Returns:
        [S, M], at least float32; rank 0, the largest magnitude, first.
    """
    grouped = in_groups(value.astype(at_least_float32(value.dtype)), m, axes)
    rank = rank_of(in_groups(bits(magnitude(w)), m, axes), axis_of_m(axes))

    def of_rank(index: jax.Array) -> jax.Array:
        chosen = jnp.where(rank == index.astype(rank.dtype), grouped, jnp.zeros_like(grouped))
        return _sum_of_slices(ungroup(chosen, w.shape, axes), axes)

    return jax.lax.map(of_rank, jnp.arange(m, dtype=jnp.int32)).T


def magnitudes(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns the magnitudes of each group, padding as 0: [S, M, groups].

    The groups are in the order of `thresholds`, its axes W, G and O flattened.
    """
    grouped = jnp.moveaxis(in_groups(magnitude(w), m, axes), axis_of_m(axes), 0)
    ordered = jax.vmap(lambda one: from_groups(one, w.shape, axes))(grouped)  # [M, S, W, G, O]
    return ordered.reshape(*ordered.shape[:2], -1).swapaxes(0, 1)


def slice_norms(w: jax.Array, axes: Axes) -> jax.Array:
    """Returns the L2 norm of each stack slice, at least float32: [S], [] without stack axes."""
    norms = jnp.sqrt(_sum_of_slices(jnp.square(w.astype(at_least_float32(w.dtype))), axes))
    return norms if axes.stack else norms.reshape(())


def _sum_of_slices(x: jax.Array, axes: Axes) -> jax.Array:
    """Adds up what has the shape of a kernel over each of its slices: [S]."""
    # Reduced where it lies, and only then brought to the order of the stack axes: no copy of x.
    others = tuple(axis for axis in range(x.ndim) if axis not in axes.stack)
    order = np.argsort(np.argsort(axes.stack)).tolist()
    return jnp.sum(x, axis=others).transpose(order).reshape(-1)

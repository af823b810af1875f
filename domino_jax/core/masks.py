"""Top-n-of-M masks, and what else is said of the groups of a kernel.

Groups are those of the canonical view (`core.canonical`); padding is 0 and loses every comparison.

Shape letters: S stack slices, W window positions, I inputs, O outputs, G groups along the inputs,
M group size. N is the number of weights kept.

NaN rule: a NaN counts as an infinite magnitude. It is kept before any finite weight, so that a
broken weight reaches the loss and is seen there, and every group still keeps exactly n.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import Axes, in_groups, per_slice, ungroup

# Set by benchmarks/masks.py on CPU. Longer groups no longer fit the registers, and XLA no longer
# unrolls longer sums.
_SHORT = 8
_AT_ONCE = 16


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
    return _best(in_groups(_bits(_magnitude(w)), m, axes), n, w.shape, m, axes)


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
    keys = in_groups(_bits(_magnitude(w)), 1, axes)  # [S, W, I, 1, O]
    kept = per_slice(kept, w.shape, axes)
    least = _largest(lambda key: _count(keys >= key) >= kept, kept.shape, keys.dtype)
    tied, spare = keys == least, kept - _count(keys > least)
    index = jnp.arange(keys[0].size, dtype=jnp.int32).reshape(1, *keys.shape[1:])
    end = _largest(lambda end: _count(tied & (index < end)) <= spare, kept.shape, index.dtype)
    return ungroup((keys > least) | (tied & (index < end)), w.shape, axes)


def _count(marks: jax.Array) -> jax.Array:
    """Counts the marks of each slice: int32, [S, 1, 1, 1, 1]."""
    return jnp.sum(marks, axis=(1, 2, 3, 4), dtype=jnp.int32, keepdims=True)


def _largest(
    holds: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: np.dtype
) -> jax.Array:
    """Returns the largest integers for which `holds` is true; it is for 0 and all up to them.

    Bit by bit: a pass over the kernel each, and no sort, which takes many times as long.
    """
    bits = np.iinfo(dtype).bits - 1

    def with_bit(place: jax.Array, found: jax.Array) -> jax.Array:
        higher = found | (jnp.ones([], dtype) << (bits - 1 - place).astype(dtype))
        return jnp.where(holds(higher), higher, found)

    return jax.lax.fori_loop(0, bits, with_bit, jnp.zeros(shape, dtype))


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
    bits = _bits(jnp.where(jnp.isnan(scores), jnp.full_like(scores, jnp.inf), scores))
    lowest, largest = np.iinfo(bits.dtype).min, np.iinfo(bits.dtype).max
    keys = jnp.where(bits < 0, bits ^ largest, bits)
    # Padding ranks below -inf; one above the lowest integer, of which `_rank` takes one away.
    return _best(in_groups(keys, m, axes, lowest + 1), n, scores.shape, m, axes)


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
    kept = jnp.where(pruned[:, :, :, None, :], per_slice(n, w.shape, axes), jnp.int32(m))
    return _keep(in_groups(_bits(_magnitude(w)), m, axes), kept, w.shape, m, axes)


def group_sums(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns the sum of the magnitudes of each group: [S, W, G, O], at least float32."""
    grouped = in_groups(_magnitude(w), m, axes)
    return jnp.sum(grouped.astype(at_least_float32(w.dtype)), axis=3)


def _best(
    keys: jax.Array, n: jax.typing.ArrayLike, shape: tuple[int, ...], m: int, axes: Axes
) -> jax.Array:
    """Marks the n largest keys of each group: [S, W, G, M, O] to the kernel's own shape."""
    return _keep(keys, per_slice(n, shape, axes), shape, m, axes)


def _keep(
    keys: jax.Array, kept: jax.Array, shape: tuple[int, ...], m: int, axes: Axes
) -> jax.Array:
    """Marks the largest keys of each group, of n that broadcast to [S, W, G, M, O]."""
    rank = _rank(keys)
    keep = rank < kept.astype(rank.dtype)
    return ungroup(_through_bits(keep) if m <= _SHORT else keep, shape, axes)


def thresholds(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns for each group the mean of its floor(m/2) smallest magnitudes (T in the paper).

    Returns:
        [S, W, G, O], the dtype of w but at least float32.
    """
    grouped = in_groups(_magnitude(w), m, axes)
    # Of an odd M the middle one is not among the smaller half; padding is, as the smallest of all.
    smallest = _rank(_bits(grouped)) >= m - m // 2
    wide = grouped.astype(at_least_float32(w.dtype))
    return jnp.sum(jnp.where(smallest, wide, jnp.zeros_like(wide)), axis=3) / (m // 2)


def thresholds_among(w: jax.Array, n: jax.typing.ArrayLike, m: int, axes: Axes) -> jax.Array:
    """Returns for each group the mean of the floor(n/2) smallest of its n largest magnitudes.

    With n = m these are `thresholds`. A network that is n:m already has zeros for the rest, and
    its smallest magnitudes say nothing.

    Returns:
        as `thresholds`; 0 where n is 1.
    """
    grouped = in_groups(_magnitude(w), m, axes)
    kept = per_slice(n, w.shape, axes)
    rank = _rank(_bits(grouped)).astype(jnp.int32)
    smallest = (rank >= kept - kept // 2) & (rank < kept)
    wide = grouped.astype(at_least_float32(w.dtype))
    total = jnp.sum(jnp.where(smallest, wide, jnp.zeros_like(wide)), axis=3)
    return total / jnp.maximum(kept // 2, 1)[:, :, :, 0].astype(wide.dtype)


def most_nonzeros(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Counts the nonzeros of the group that has the most of them: int32, [S] or []."""
    nonzeros = jnp.sum(in_groups(_magnitude(w), m, axes) != 0, axis=3, dtype=jnp.int32)
    most = jnp.max(nonzeros, axis=(1, 2, 3))
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
    grouped = in_groups(_magnitude(w), m, axes).astype(threshold.dtype)
    # Padding is 0 and never above a threshold, which is 0 or more: a short last group is short.
    above = jnp.sum(grouped > threshold[:, :, :, None, :], axis=3, dtype=jnp.int32)
    short = above < per_slice(n, w.shape, axes)[:, :, :, 0]
    counts = jnp.sum(short, axis=(1, 2, 3), dtype=jnp.int32)
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
    rank = _rank(in_groups(_bits(_magnitude(w)), m, axes))

    def of_rank(index: jax.Array) -> jax.Array:
        chosen = rank == index.astype(rank.dtype)
        return jnp.sum(jnp.where(chosen, grouped, jnp.zeros_like(grouped)), axis=(1, 2, 3, 4))

    return jax.lax.map(of_rank, jnp.arange(m, dtype=jnp.int32)).T


def magnitudes(w: jax.Array, m: int, axes: Axes) -> jax.Array:
    """Returns the magnitudes of each group, padding as 0: [S, M, groups].

    The groups are in the order of `thresholds`, its axes W, G and O flattened.
    """
    grouped = in_groups(_magnitude(w), m, axes).transpose(0, 3, 1, 2, 4)
    return grouped.reshape(*grouped.shape[:2], -1)


def slice_norms(w: jax.Array, axes: Axes) -> jax.Array:
    """Returns the L2 norm of each stack slice, at least float32: [S], [] without stack axes."""
    # Reduced where it lies, and only then brought to the order of the stack axes: no copy of w.
    others = tuple(a for a in range(w.ndim) if a not in axes.stack)
    squares = jnp.sum(jnp.square(w.astype(at_least_float32(w.dtype))), axis=others)
    return jnp.sqrt(squares.transpose(np.argsort(np.argsort(axes.stack)).tolist())).reshape(
        (-1,) if axes.stack else ()
    )


def _magnitude(w: jax.Array) -> jax.Array:
    """Returns |w| with NaN as infinity, through the bits: denormals stay what they are."""
    # Without the sign bit the integers of NaN lie above that of infinity.
    bits = _bits(w) & np.iinfo(f"int{8 * w.dtype.itemsize}").max
    infinity = np.array(np.inf, w.dtype).view(bits.dtype)
    return jax.lax.bitcast_convert_type(jnp.minimum(bits, infinity), w.dtype)


def _bits(x: jax.Array) -> jax.Array:
    """Reads floats as integers of their size: floats of 0 and more are ordered as these are."""
    return jax.lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")


def at_least_float32(dtype: jax.typing.DTypeLike) -> np.dtype:
    """Returns a dtype to compute in: that of the weights, but at least float32."""
    return np.dtype(dtype) if np.dtype(dtype).itemsize >= 4 else np.dtype(np.float32)


def _rank(keys: jax.Array) -> jax.Array:
    """Counts for each weight of [S, W, G, M, O] the weights of its group that beat it.

    Every weight meets every other, in one fused loop: no sort, no gather. Keys are integers, so a
    tie is broken by asking one less of the lower index:

        keys   3 7 7 1     the second 7 is beaten by the 7 on its left, for 7 > 7 - 1;
        rank   2 0 1 3     the first is not by the 7 on its right, for 7 > 7 is false

    Returns:
        integers, the shape of keys; int8 for long groups, whose ranks XLA keeps in memory.
    """
    m = keys.shape[3]
    own_index = jax.lax.broadcasted_iota(jnp.int32, (1, 1, 1, m, 1), 3)

    def beats(other: jax.Array, index: jax.Array | int) -> jax.Array:
        return other > keys - (index < own_index).astype(keys.dtype)

    rank = jnp.zeros(keys.shape, jnp.int32 if m <= _SHORT else jnp.int8)
    if m <= _SHORT:  # unrolled: all ranks of a group stay in registers
        for index in range(m):
            rank += beats(keys[:, :, :, index : index + 1], index).astype(rank.dtype)
        return rank
    # In parts: summed over all M at once, XLA would write the [.., M, M] comparisons to memory.
    for start in range(0, m, _AT_ONCE):
        others = keys[:, :, :, start : start + _AT_ONCE, None]
        indices = start + jnp.arange(others.shape[3], dtype=jnp.int32)
        rank += jnp.sum(jax.vmap(beats, (3, 0))(others, indices), axis=0, dtype=rank.dtype)
    return rank


def _through_bits(keep: jax.Array) -> jax.Array:
    """Packs the marks of each short group [S, W, G, M, O] into one byte, and unpacks them.

    The sum makes XLA rank a whole group at once, in registers; else it starts anew for each mark.
    """
    bit = (1 << np.arange(keep.shape[3])).astype(np.uint8)[None, None, None, :, None]
    packed = jnp.sum(jnp.where(keep, bit, np.uint8(0)), axis=3, keepdims=True, dtype=np.uint8)
    return (packed & bit) != 0

"""Ranks, sums and magnitudes of groups, written so that XLA keeps a group in registers.

The constants and the forms were chosen by `benchmarks/masks.py` on CPUs; a comment says what the
plain form costs there.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Longer groups no longer fit the registers, and XLA no longer unrolls longer sums.
SHORT = 8
_AT_ONCE = 16


def magnitude(w: jax.Array) -> jax.Array:
    """Returns |w| with NaN as infinity, through the bits: denormals stay what they are."""
    # Without the sign bit the integers of NaN lie above that of infinity.
    unsigned = bits(w) & np.iinfo(f"int{8 * w.dtype.itemsize}").max
    infinity = np.array(np.inf, w.dtype).view(unsigned.dtype)
    return jax.lax.bitcast_convert_type(jnp.minimum(unsigned, infinity), w.dtype)


def bits(x: jax.Array) -> jax.Array:
    """Reads floats as integers of their size: floats of 0 and more are ordered as these are."""
    return jax.lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")


def at_least_float32(dtype: jax.typing.DTypeLike) -> np.dtype:
    """Returns a dtype to compute in: that of the weights, but at least float32."""
    return np.dtype(dtype) if np.dtype(dtype).itemsize >= 4 else np.dtype(np.float32)


def rank_of(keys: jax.Array, axis: int) -> jax.Array:
    """Counts for each weight of a group along the axis the weights that beat it.

    Every weight meets every other, in one fused loop: no sort, no gather. Keys are integers, so a
    tie is broken by asking one less of the lower index:

        keys   3 7 7 1     the second 7 is beaten by the 7 on its left, for 7 > 7 - 1;
        rank   2 0 1 3     the first is not by the 7 on its right, for 7 > 7 is false

    Returns:
        integers, the shape of keys; int8 for long groups, whose ranks XLA keeps in memory.
    """
    m = keys.shape[axis]
    own_index = _along(jnp.arange(m, dtype=jnp.int32), keys.ndim, axis)

    def beats(other: jax.Array, index: jax.Array | int) -> jax.Array:
        return other > keys - (index < own_index).astype(keys.dtype)

    rank = jnp.zeros(keys.shape, jnp.int32 if m <= SHORT else jnp.int8)
    if m <= SHORT:  # unrolled: all ranks of a group stay in registers
        for index in range(m):
            other = jax.lax.slice_in_dim(keys, index, index + 1, axis=axis)
            rank += beats(other, index).astype(rank.dtype)
        return rank
    # In parts: summed over all M at once, XLA would write the [.., M, M] comparisons to memory.
    for start in range(0, m, _AT_ONCE):
        end = min(start + _AT_ONCE, m)
        others = jnp.expand_dims(jax.lax.slice_in_dim(keys, start, end, axis=axis), axis + 1)
        indices = jnp.arange(start, end, dtype=jnp.int32)
        rank += jnp.sum(jax.vmap(beats, (axis, 0))(others, indices), axis=0, dtype=rank.dtype)
    return rank


def through_bits(keep: jax.Array, axis: int) -> jax.Array:
    """Packs the marks of each group along the axis into one integer, and unpacks them.

    The sum makes XLA rank a whole group at once, in registers; else it starts anew for each mark.
    """
    m = keep.shape[axis]
    dtype = np.dtype(np.uint8 if m <= 8 else np.uint16 if m <= 16 else np.uint32)
    place = _along(jnp.arange(m, dtype=dtype), keep.ndim, axis)
    marks = jnp.where(keep, jnp.ones([], dtype) << place, jnp.zeros([], dtype))
    packed = jnp.sum(marks, axis=axis, keepdims=True, dtype=dtype)
    return ((packed >> place) & jnp.ones([], dtype)).astype(bool)


def _along(x: jax.Array, rank: int, axis: int) -> jax.Array:
    """Lays a vector along an axis, 1 on every other one."""
    return x.reshape([-1 if other == axis else 1 for other in range(rank)])


def sum_of_marked(grouped: jax.Array, marks: jax.Array, axis: int) -> jax.Array:
    """Adds up what is marked of each group along the axis, in at least float32."""
    wide = grouped.astype(at_least_float32(grouped.dtype))
    marked = jnp.where(marks, wide, jnp.zeros_like(wide))
    # The ranks of long groups are better in memory (`rank_of`); there `jnp.sum` leaves them.
    return sum_along(marked, axis) if grouped.shape[axis] <= SHORT else jnp.sum(marked, axis=axis)


def sum_along(x: jax.Array, axis: int) -> jax.Array:
    """Adds floats up along an axis, without an array of them on CPU.

    There XLA hands the sums of floats to YNNPACK, and what is added up has to be in memory first:
    ten times as long. It does not know them where the floats travel as integers.
    """

    def added(one: jax.Array, other: jax.Array) -> jax.Array:
        one, other = (jax.lax.bitcast_convert_type(each, x.dtype) for each in (one, other))
        return bits(one + other)

    def on_cpu(x: jax.Array) -> jax.Array:
        total = jax.lax.reduce(bits(x), np.zeros([], bits(x).dtype)[()], added, (axis,))
        return jax.lax.bitcast_convert_type(total, x.dtype)

    total: jax.Array = jax.lax.platform_dependent(
        x, cpu=on_cpu, default=lambda x: jnp.sum(x, axis=axis)
    )
    return total

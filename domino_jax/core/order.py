"""The k-th smallest of magnitudes along axes, without a sort: digit by digit of their bits.

A float of 0 and more is ordered as its bits are; 16 passes find two bits of a float32 each, by
three counts at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

DIGIT = 2  # bits; with 4 the counts of a pass cost as much as the passes that are saved


def two_smallest_from(
    x: jax.Array, k: jax.typing.ArrayLike, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns the k-th smallest of x along axes, and the one after it.

    Args:
        x: floats of 0 and more, no NaN.
        k: from 0 on, int32; of a shape that broadcasts to x with 1 along the axes. The 0-th is 0.
        axes: what is ordered; the others stay.

    Returns:
        two arrays of the rank of x, 1 along the axes.
    """
    rest = tuple(axis for axis in range(x.ndim) if axis not in axes)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    k = jnp.broadcast_to(jnp.asarray(k, jnp.int32), shape)
    rows = _side_by_side(jnp.transpose(x, (*rest, *axes)))
    low, high = _two_smallest(rows, k.reshape(tuple(x.shape[axis] for axis in rest)))
    return low.reshape(shape), high.reshape(shape)


def _side_by_side(x: jax.Array) -> jax.Array:
    """Lays x out in memory along its last axes; a pass on a CPU takes a quarter of the time then.

    Without the constraint XLA takes a transpose for a view. Between several devices it is left out:
    an array that is split would be gathered for it.
    """
    if jax.device_count() > 1:
        return jax.lax.optimization_barrier(x)
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _two_smallest(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Does it along the last axes of x, for one k of each place along the first ones."""
    along = tuple(range(k.ndim, x.ndim))
    keys = jax.lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")

    def try_digit(index: jax.Array, low: jax.Array) -> jax.Array:
        shift = (8 * x.dtype.itemsize - DIGIT * (index + 1)).astype(keys.dtype)
        tried = [low | (jnp.asarray(d, keys.dtype) << shift) for d in range(1, 1 << DIGIT)]
        is_below = [(keys < jnp.expand_dims(each, along)).astype(jnp.int32) for each in tried]
        below = jax.lax.reduce(is_below, [jnp.int32(0)] * len(tried), _sums, along)
        for each, count in zip(tried, below, strict=True):  # the largest with fewer than k below
            low = jnp.where((each >= 0) & (count < k), each, low)  # below the sign
        return low

    digits = 8 * x.dtype.itemsize // DIGIT
    low = jax.lax.fori_loop(0, digits, try_digit, jnp.zeros(k.shape, keys.dtype))
    largest = jnp.asarray(np.iinfo(keys.dtype).max, keys.dtype)
    is_above = keys > jnp.expand_dims(low, along)
    above, at_most = jax.lax.reduce(
        [jnp.where(is_above, keys, largest), (~is_above).astype(jnp.int32)],
        [largest, jnp.int32(0)],
        lambda one, other: [jnp.minimum(one[0], other[0]), one[1] + other[1]],
        along,
    )
    high = jnp.where(at_most > k, low, above)
    return (
        jax.lax.bitcast_convert_type(low, x.dtype),
        jax.lax.bitcast_convert_type(high, x.dtype),
    )


def _sums(some: list[jax.Array], others: list[jax.Array]) -> list[jax.Array]:
    return [one + other for one, other in zip(some, others, strict=True)]

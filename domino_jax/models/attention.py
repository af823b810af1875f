"""Multi-head attention of projected positions: products of activations, without parameters.

`jax.nn.dot_product_attention` computes the same (1e-6 apart in float32), but does not serve here
as of JAX 0.10 to 0.12: with bfloat16 its scores are float32, so that its gradient multiplies
float32 by bfloat16, which strict promotion of types refuses; and with float64 its softmax is
float32.

Two things make it faster than softmax and product (on two cores, 16 x 256 positions, 4 heads:
47 and 28 ms with gradients). Long causal attention goes by blocks of positions, each of which
leaves out what lies after it. And the sum of a softmax divides the mixed values, which are fewer
than the shares; its gradient then needs no sum over shares either (Dao et al. 2022, appendix B).

Letters: B examples, T positions, C channels, H heads, D = C / H, Q positions of a block, K
positions that it sees.
"""

import jax
import jax.numpy as jnp

BLOCK = 128  # positions, at least; half as many are no faster
MOST = 4  # blocks: the work left falls by little after, and the program grows


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, *, heads: int, causal: bool
) -> jax.Array:
    """Mixes the values of the positions by softmax(query · key / √(C / heads)).

    Args:
        query: [B, T, C].
        key: [B, T, C].
        value: [B, T, C].
        heads: a divisor of C.
        causal: a position sees itself and those before it alone.

    Returns:
        [B, T, C] in the dtype of the values; the softmax is computed in at least float32.
    """
    batch, length, channels = query.shape
    size = channels // heads
    q, k, v = (
        x.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)
        for x in (query * size**-0.5, key, value)
    )
    if causal:
        blocks = min(max(length // BLOCK, 1), MOST)
        ends = [length * (block + 1) // blocks for block in range(blocks)]
        starts = [0, *ends[:-1]]
        mixed = jnp.concatenate(
            [
                _mix(q[:, :, start:end], k[:, :, :end], v[:, :, :end], start)
                for start, end in zip(starts, ends, strict=True)
            ],
            axis=2,
        )
    else:
        mixed = _mix(q, k, v, None)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, length, channels)


def _mix(q: jax.Array, k: jax.Array, v: jax.Array, start: int | None) -> jax.Array:
    """Mixes values [B, H, K, D] for [B, H, Q, D]; causally where the first has a position."""
    scores = q @ k.swapaxes(2, 3)
    if jnp.finfo(scores.dtype).bits < 32:
        scores = scores.astype(jnp.float32)
    if start is not None:
        seen = jnp.tri(scores.shape[2], scores.shape[3], start, dtype=bool)
        scores = jnp.where(seen[None, None], scores, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
    shares = jnp.exp(scores - highest)
    total = jnp.sum(shares, -1, keepdims=True)
    return ((shares.astype(v.dtype) @ v).astype(total.dtype) / total).astype(v.dtype)

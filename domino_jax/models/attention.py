"""Multi-head attention of projected positions: products of activations, without parameters.

`jax.nn.dot_product_attention` computes the same (2e-7 apart in float32), but does not serve here
as of JAX 0.10 to 0.12: with bfloat16 its scores are float32, so that its gradient multiplies
float32 by bfloat16, which strict promotion of types refuses; and with float64 its softmax is
float32. On CPUs and by default on GPUs it runs the same operations, so no time is lost.

Letters: B examples, T positions, C channels, shared out among the heads.
"""

import jax
import jax.numpy as jnp


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
        x.reshape(batch, length, heads, size).transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    scores = (q * size**-0.5) @ k.swapaxes(2, 3)
    if jnp.finfo(scores.dtype).bits < 32:
        scores = scores.astype(jnp.float32)
    if causal:
        scores = jnp.where(jnp.tri(length, dtype=bool)[None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, -1).astype(v.dtype)
    return (shares @ v).transpose(0, 2, 1, 3).reshape(batch, length, channels)

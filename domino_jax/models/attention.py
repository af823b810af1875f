"""Multi-head attention of projected positions: products of activations, without parameters.

Letters: B examples, T positions, C channels, shared out among the heads.
"""

import jax
import jax.numpy as jnp

from domino_jax.models.layer_norm import at_least_float32


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
    scores = at_least_float32((q * size**-0.5) @ k.swapaxes(2, 3))
    if causal:
        scores = jnp.where(jnp.tri(length, dtype=bool)[None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, -1).astype(v.dtype)
    return (shares @ v).transpose(0, 2, 1, 3).reshape(batch, length, channels)

"""Layer normalization with PyTorch's conventions.

Letters: C channels; `...` examples and positions.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.Module):
    """Normalizes each position over its channels, as `torch.nn.LayerNorm`.

    Mean and biased variance are computed in at least float32, the variance from the centered
    values (`nnx.LayerNorm` takes a difference of squares by default).
    """

    def __init__(self, features: int, *, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalizes [..., C]; the outputs have the dtype of the inputs."""
        values = at_least_float32(inputs)
        centered = values - jnp.mean(values, -1, keepdims=True)
        var = jnp.mean(jnp.square(centered), -1, keepdims=True)
        last = tuple(range(inputs.ndim - 1))
        scale, bias = (
            jnp.expand_dims(leaf[...].astype(values.dtype), last)
            for leaf in (self.scale, self.bias)
        )
        outputs = centered * jax.lax.rsqrt(var + self.epsilon) * scale + bias
        return outputs.astype(inputs.dtype)


def at_least_float32(values: jax.Array) -> jax.Array:
    """Casts values of lower precision to float32."""
    return values.astype(jnp.float32) if jnp.finfo(values.dtype).bits < 32 else values

"""Layer normalization with PyTorch's conventions.

Letters: C channels; `...` examples and positions.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.Module):
    """Normalizes each position over its channels, as `torch.nn.LayerNorm`.

    Mean and biased variance are computed in at least float32, the variance from the centered
    values (`nnx.LayerNorm` takes a difference of squares by default, and does not serve otherwise
    either: it rounds scale and bias to bfloat16 with bfloat16 inputs, and centers them twice).
    """

    def __init__(self, features: int, *, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalizes [..., C]; the outputs have the dtype of the inputs."""
        wide = inputs.dtype if jnp.finfo(inputs.dtype).bits > 32 else jnp.float32
        values = inputs.astype(wide)
        centered = values - jnp.mean(values, -1, keepdims=True)
        variance = jnp.mean(jnp.square(centered), -1, keepdims=True)
        channel = tuple(range(inputs.ndim - 1))
        scale, bias = (
            jnp.expand_dims(leaf[...].astype(wide), channel) for leaf in (self.scale, self.bias)
        )
        normal = centered * jax.lax.rsqrt(variance + self.epsilon)
        return (normal * scale + bias).astype(inputs.dtype)

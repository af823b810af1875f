"""Layer normalization with PyTorch's conventions, of Flax's.

Letters: C channels; `...` examples and positions.
"""

from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


class LayerNorm(nnx.LayerNorm):
    """Normalizes each position over its channels, as `torch.nn.LayerNorm`.

    Mean and biased variance are computed in at least float32, the variance from the centered
    values (`nnx.LayerNorm` takes a difference of squares by default).
    """

    def __init__(self, features: int, *, epsilon: float) -> None:
        super().__init__(
            features,
            epsilon=epsilon,
            use_fast_variance=False,
            promote_dtype=_at_least_float32,
            rngs=nnx.Rngs(0),
        )

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes [..., C]; the outputs have the dtype of the inputs."""
        # Flax asks for the wider of float64 and float32, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, mask=mask).astype(x.dtype)


def _at_least_float32(arrays: _Arrays, /, *, dtype: Any = None, inexact: bool = True) -> _Arrays:
    """Casts inputs, scale and bias to the dtype of the inputs, or to float32 where that is wider.

    `nnx.LayerNorm` would round scale and bias to bfloat16 with bfloat16 inputs, and subtract a
    float32 mean from them, which strict promotion of types refuses.
    """
    del dtype, inexact
    input_dtype = arrays[0].dtype
    wide = input_dtype if jnp.finfo(input_dtype).bits > 32 else jnp.float32
    return cast(_Arrays, tuple(array.astype(wide) for array in arrays))

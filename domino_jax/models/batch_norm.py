"""Batch normalization with PyTorch's conventions.

Letters: B examples, C channels; `...` positions.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core.errors import InputError

EPSILON = 1e-5
MOMENTUM = 0.1


class BatchNorm(nnx.Module):
    """Normalizes each channel over the examples and positions, as `torch.nn.BatchNorm2d`.

    In training it uses the batch's mean and biased variance and moves the running mean and the
    running *unbiased* variance by `MOMENTUM` towards the batch's (`nnx.BatchNorm` stores the biased
    one, and has other defaults). In evaluation it uses the running ones. In a jitted step over a
    sharded batch the batch is the global one. Statistics are computed in their own dtype, float32,
    also when the inputs are bfloat16.
    """

    def __init__(self, features: int, *, epsilon: float = EPSILON) -> None:
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((features,), jnp.float32))
        self.epsilon = epsilon
        self.use_running_average = False  # the name that nnx's train() and eval() set

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalizes [B, ..., C]; the outputs have the dtype of the inputs.

        Raises:
            InputError: the inputs are wider than the statistics, or training with one value for
                each channel.
        """
        dtype = self.mean[...].dtype
        if jnp.finfo(inputs.dtype).bits > jnp.finfo(dtype).bits:
            raise InputError(
                f"batch normalization of {inputs.dtype} inputs with {dtype} running statistics:"
                " cast the stats as well as the params"
            )
        values = inputs.astype(dtype)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._update(values)
        factor = self.scale[...].astype(dtype) * jax.lax.rsqrt(var + self.epsilon)
        shift = self.bias[...].astype(dtype)
        channel = tuple(range(inputs.ndim - 1))
        centered = values - jnp.expand_dims(mean, channel)
        outputs = centered * jnp.expand_dims(factor, channel) + jnp.expand_dims(shift, channel)
        return outputs.astype(inputs.dtype)

    def _update(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Moves the running statistics; returns the batch's mean and biased variance, [C] each."""
        count = math.prod(values.shape[:-1])
        if count < 2:
            raise InputError(
                "batch normalization in training needs more than one value for each channel,"
                f" got inputs of shape {values.shape}"
            )
        axes = tuple(range(values.ndim - 1))
        mean = jnp.mean(values, axes)
        var = jnp.var(values, axes)
        unbiased = var * (count / (count - 1))
        # Not `self.mean[...] =`: Flax asks for the sharding of a tracer, and JAX goes through all
        # of the program so far to say that it has none.
        self.mean.set_value((1 - MOMENTUM) * self.mean[...] + MOMENTUM * mean)
        self.var.set_value((1 - MOMENTUM) * self.var[...] + MOMENTUM * unbiased)
        return mean, var

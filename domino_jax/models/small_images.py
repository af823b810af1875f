"""A convolution that stays fast where images have shrunk to a few pixels.

XLA's convolution on CPU is pathological there: on two cores 64 images of 2x2x512 under a 3x3 window
take 974 ms, and their product over patches 31; the gradients 2,101 and 57 ms. From 4x4 on it is
faster than patches, and so it is for few channels. On other devices nothing changes.

Letters: B examples, H, W image rows and columns, C channels, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PIXELS = 4  # of an image of outputs, at most: at 3x3 patches win nothing below 512 channels
CHANNELS = 64 * 64  # C times O, at least


def convolution(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated`, on CPU over patches where that is faster.

    Args:
        inputs: [B, H, W, C].
        kernel: [window rows, window columns, C, O].
        strides: along H and W.
        padding: (before, after) of H and of W, or what else JAX takes.
        **options: further arguments of `jax.lax.conv_general_dilated`.

    Returns:
        [B, output rows, output columns, O].
    """

    def as_ever(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    if not _is_plain(kernel, padding, options):
        return as_ever(inputs, kernel)
    sizes = _output_sizes(inputs.shape, kernel.shape, strides, padding)
    if sizes[0] * sizes[1] > PIXELS or kernel.shape[2] * kernel.shape[3] < CHANNELS:
        return as_ever(inputs, kernel)

    def over_patches(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        columns = _patches(inputs, kernel.shape, strides, padding, sizes)
        outputs = kernel.shape[-1]
        return lax.dot(
            columns, kernel.reshape(-1, outputs), precision=options.get("precision")
        ).reshape(inputs.shape[0], *sizes, outputs)

    answer: jax.Array = lax.platform_dependent(inputs, kernel, cpu=over_patches, default=as_ever)
    return answer


def _is_plain(kernel: jax.Array, padding: Any, options: Any) -> bool:
    """Tells a convolution of images without dilation or groups, its padding in numbers."""
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    return (
        kernel.ndim == 4
        and not isinstance(padding, str)
        and options.get("feature_group_count", 1) == 1
        and options.get("preferred_element_type") is None
        and all(dilation == 1 for dilation in dilations)
    )


def _output_sizes(
    shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Any
) -> tuple[int, int]:
    rows, columns = (
        (size + sum(around) - window) // stride + 1
        for size, window, stride, around in zip(
            shape[1:3], kernel[:2], strides, padding, strict=True
        )
    )
    return rows, columns


def _patches(
    inputs: jax.Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Any,
    sizes: tuple[int, int],
) -> jax.Array:
    """Lays out what each output sees: [B·rows·columns, window·C], in the order of the kernel."""
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    reach = [(size - 1) * stride + 1 for size, stride in zip(sizes, strides, strict=True)]
    examples, channels = inputs.shape[0], inputs.shape[-1]
    seen = [
        lax.slice(
            padded,
            (0, row, column, 0),
            (examples, row + reach[0], column + reach[1], channels),
            (1, *strides, 1),
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    return jnp.concatenate(seen, axis=-1).reshape(-1, kernel[0] * kernel[1] * channels)

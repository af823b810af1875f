"""A convolution that is as fast on CPU as its products are; on other devices nothing changes.

XLA's convolution on CPU has two weaknesses (two cores, milliseconds):

- The gradient of a kernel takes two to four times as long as that of the inputs: 53 and 14 for
  8 x 56 x 56 x 64 under a 3x3 window. As one product (`patches.by_columns`) it takes 35, and for
  8 x 28 x 28 x 128 20 instead of 56. Most of it is YNNPACK's: a program that is told to leave
  convolutions with Eigen (`core/compiling.py`) takes 15 for the first. All others need the product.
- Small images are pathological: 64 of 2x2x512 under a 3x3 window take 974, their product over
  patches 31; the gradients 2,101 and 57. Up to 7x7, patches are faster for many channels alone.

Letters: B examples, H, W image rows and columns, C channels, O outputs.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_derivatives import SymbolicZero

from domino_jax.models.patches import by_columns, output_sizes, over_patches

# Pixels of an image of outputs, at most, and C times O, at least, from where on patches win.
SMALL = ((4, 64 * 64), (49, 256 * 512))
WORK = 2**17  # products of an output's pixel and a window's: with less, a copy costs what it saves

Convolve = Callable[[jax.Array, jax.Array], jax.Array]


def convolution(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated`, on CPU over products where that is faster.

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
    precision = options.get("precision")

    def patches(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return over_patches(inputs, kernel, strides, padding, precision)

    def columns(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return by_columns(inputs, kernel, padding, precision)

    rows, across = output_sizes(inputs.shape, kernel.shape, strides, padding)
    pixels, channels = rows * across, kernel.shape[2] * kernel.shape[3]
    if any(pixels <= most and channels >= least for most, least in SMALL):
        answer: jax.Array = lax.platform_dependent(inputs, kernel, cpu=patches, default=as_ever)
        return answer
    if pixels * channels < WORK:
        return as_ever(inputs, kernel)
    return _differentiated(as_ever, columns if tuple(strides) == (1, 1) else patches)(
        inputs, kernel
    )


def _differentiated(convolve: Convolve, in_kernel: Convolve) -> Convolve:
    """Makes `convolve`, whose derivative by the kernel on CPU goes through `in_kernel`.

    The transpose of a product is one: so the gradient is what the module says.
    """

    @jax.custom_jvp
    def convolved(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(inputs, kernel)

    def rule(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        inputs, kernel = primals
        outputs = convolved(inputs, kernel)
        by_inputs, by_kernel = tangents
        terms = []
        if not isinstance(by_inputs, SymbolicZero):
            terms.append(convolve(by_inputs, kernel))
        if not isinstance(by_kernel, SymbolicZero):
            terms.append(lax.platform_dependent(inputs, by_kernel, cpu=in_kernel, default=convolve))
        return outputs, sum(terms[1:], terms[0])

    convolved.defjvp(rule, symbolic_zeros=True)
    return convolved


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

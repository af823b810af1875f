"""A convolution as matrix products, two ways.

Letters: B examples, H, W image rows and columns, C channels, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Sizes = Sequence[int]


def over_patches(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sizes,
    padding: Sequence[Sizes],
    precision: Any = None,
) -> jax.Array:
    """Multiplies what each output sees (window rows · columns · C values) by the kernel.

    Arguments and result are those of `domino_jax.models.convolution.convolution`.
    """
    sizes = output_sizes(inputs.shape, kernel.shape, strides, padding)
    columns = _patches(inputs, kernel.shape, strides, padding, sizes)
    outputs = kernel.shape[-1]
    product = lax.dot(columns, kernel.reshape(-1, outputs), precision=precision)
    return product.reshape(inputs.shape[0], *sizes, outputs)


def by_columns(
    inputs: jax.Array, kernel: jax.Array, padding: Sequence[Sizes], precision: Any = None
) -> jax.Array:
    """Multiplies what each output sees of one row by all rows of the window, and adds them up.

    One product [.., window columns · C] by [.., window rows · O]. That of the kernel's gradient has
    the same factors, which are fewer values than patches are: 3 · C + 3 · O instead of 9 · C for
    each output. The stride is 1; else as `over_patches`.
    """
    window_rows, window_columns, channels, outputs = kernel.shape
    rows, columns = output_sizes(inputs.shape, kernel.shape, (1, 1), padding)
    padded = jnp.pad(inputs, ((0, 0), (0, 0), tuple(padding[1]), (0, 0)))
    seen = jnp.concatenate(
        [padded[:, :, column : column + columns] for column in range(window_columns)], axis=-1
    ).reshape(-1, window_columns * channels)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(-1, window_rows * outputs)
    products = lax.dot(seen, matrix, precision=precision)
    products = products.reshape(*inputs.shape[:2], columns, window_rows * outputs)
    zero, total = jnp.zeros([], products.dtype), None
    for row, product in enumerate(lax.split(products, (outputs,) * window_rows, axis=3)):
        before = padding[0][0] - row
        sides = ((0, 0, 0), (before, rows - inputs.shape[1] - before, 0), (0, 0, 0), (0, 0, 0))
        moved = lax.pad(product, zero, sides)
        total = moved if total is None else total + moved
    assert total is not None  # a window has a row
    return total


def output_sizes(
    shape: Sizes, kernel: Sizes, strides: Sizes, padding: Sequence[Sizes]
) -> tuple[int, int]:
    """Returns the rows and columns of the outputs."""
    rows, columns = (
        (size + sum(around) - window) // stride + 1
        for size, window, stride, around in zip(
            shape[1:3], kernel[:2], strides, padding, strict=True
        )
    )
    return rows, columns


def _patches(
    inputs: jax.Array,
    kernel: Sizes,
    strides: Sizes,
    padding: Sequence[Sizes],
    sizes: Sizes,
) -> jax.Array:
    """Lays out what each output sees: [B·rows·columns, window·C], in the order of the kernel."""
    padded = jnp.pad(inputs, ((0, 0), *(tuple(around) for around in padding), (0, 0)))
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

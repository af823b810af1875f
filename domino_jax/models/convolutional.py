"""What convolutional networks share: torchvision's convolutions and pooling, and how one is made.

Paddings are PyTorch's, explicit and symmetric. Letters: B examples, H, W image rows and columns,
C channels.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from domino_jax.core.errors import InputError
from domino_jax.models import Model, from_nnx
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.models.convolution import convolution
from domino_jax.models.initial import fill
from domino_jax.models.options import only_array, require_dtype, require_positive


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dtype: Any = None,
) -> nnx.Conv:
    """Makes a square convolution, all zero; it pads half the kernel.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: rows and columns of the window, odd.
        stride: along both.
        groups: each output sees `inputs / groups` channels: the kernel is
            (kernel, kernel, inputs / groups, outputs).
        bias: it has one.
        dtype: of the computation.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.zeros,
        conv_general_dilated=convolution,
        rngs=nnx.Rngs(0),
    )


def conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, dtype: Any
) -> nnx.List:
    """Makes a convolution without bias and its batch norm, members 0 and 1 of a list."""
    first = conv(inputs, outputs, kernel, stride=stride, groups=groups, dtype=dtype)
    return nnx.List([first, BatchNorm(outputs)])


def in_turn(steps: Any, inputs: jax.Array) -> jax.Array:
    """Calls the members of a list one after the other."""
    x = inputs
    for step in steps:
        x = step(x)
    return x


def logits(layer: nnx.Linear, features: jax.Array) -> jax.Array:
    """Maps [B, C] to [B, classes] in the dtype of the layer's parameters."""
    return layer(features).astype(layer.kernel[...].dtype)


def make(
    module: Callable[[int], nnx.Module],
    *,
    example: Any,
    classes: int,
    seed: int,
    dtype: str | None,
    smallest: int = 1,
) -> Model:
    """Makes a network of images with float32 weights.

    Args:
        module: makes it for a number of channels; nothing is computed.
        example: one array of images, [1, H, W, C]: gives the number of channels.
        classes: number of logits.
        seed: of the weights.
        dtype: of the computation: 'float32' or 'bfloat16' (batch norm's statistics and the logits
            stay float32); None: that of params and inputs, which then must agree.
        smallest: number of rows and columns that it takes.

    Raises:
        InputError: an argument has another value, or the example is not one array of such images.
    """
    require_dtype(dtype)
    require_positive(classes=classes)
    expected = "a convolutional network takes one array of images (1, rows, columns, channels)"
    shape = only_array(example, 4, expected).shape
    if min(shape[1:3]) < smallest or math.prod(shape) < 1:
        raise InputError(f"{expected}, here at least {smallest} by {smallest}, got {tuple(shape)}")
    model = from_nnx(nnx.eval_shape(lambda: module(shape[3])))
    return Model(model.apply, fill(model.params, seed), fill(model.stats, seed))

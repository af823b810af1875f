"""Residual networks in the forms of torchvision (ImageNet) and of He et al. 2016 (CIFAR).

Sub-modules have torchvision's names, so a path is `layer1/0/downsample/0/kernel`; paddings are
PyTorch's, explicit and symmetric. The table of forms, `deploy/resnet_forms.py`, is that of our
PyTorch networks too. Letters: B examples, H, W image rows and columns, C channels.
Counts at 32x32 with 3 channels, 100 classes (MACs with the last layer's):

- `resnet56`: basic blocks, 9 for each stage; 125.5 M MACs with the CIFAR forms' default shortcut
  'pad', which has no weights (He et al., option A); 125.8 M with 'projection'.
- `resnet56_bottleneck`: bottlenecks, 9 for each stage, so 83 layers deep on their main path: the
  DominoSearch paper's "ResNet-56", with 853,936 convolution weights and 127.3 M MACs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.deploy.resnet_forms import FORMS, SHORTCUTS, STEMS, Form
from domino_jax.models import Model
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.models.convolutional import conv, conv_norm, in_turn, logits, make
from domino_jax.models.linear import linear
from domino_jax.models.options import require_positive
from domino_jax.models.pooling import max_pool


def _shortcut(
    downsample: nnx.List | None, inputs: jax.Array, channels: int, stride: int
) -> jax.Array:
    """Brings a block's inputs [B, H, W, C] to the shape [B, H / stride, W / stride, channels]."""
    if downsample is not None:
        return in_turn(downsample, inputs)
    missing = channels - inputs.shape[3]
    if stride == 1 and missing == 0:
        return inputs
    sides = (missing // 2, missing - missing // 2)
    return jnp.pad(inputs[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut; the stride is on the first."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, project: bool, dtype: Any) -> None:
        self.conv1 = conv(inputs, width, 3, stride=stride, dtype=dtype)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype)
        self.bn2 = BatchNorm(width)
        self.stride = stride
        self.downsample = (
            conv_norm(inputs, width, 1, stride=stride, dtype=dtype) if project else None
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, width]."""
        outputs = jax.nn.relu(self.bn1(self.conv1(inputs)))
        outputs = self.bn2(self.conv2(outputs))
        shortcut = _shortcut(self.downsample, inputs, outputs.shape[3], self.stride)
        return jax.nn.relu(outputs + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is on the 3x3 (torchvision 1.5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, project: bool, dtype: Any) -> None:
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1, dtype=dtype)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, stride=stride, dtype=dtype)
        self.bn2 = BatchNorm(width)
        self.conv3 = conv(width, outputs, 1, dtype=dtype)
        self.bn3 = BatchNorm(outputs)
        self.stride = stride
        self.downsample = (
            conv_norm(inputs, outputs, 1, stride=stride, dtype=dtype) if project else None
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, 4 · width]."""
        outputs = jax.nn.relu(self.bn1(self.conv1(inputs)))
        outputs = jax.nn.relu(self.bn2(self.conv2(outputs)))
        outputs = self.bn3(self.conv3(outputs))
        shortcut = _shortcut(self.downsample, inputs, outputs.shape[3], self.stride)
        return jax.nn.relu(outputs + shortcut)


class ResNet(nnx.Module):
    """A residual network: stem, stages `layer1`, `layer2`, …, mean over the image, `fc`."""

    def __init__(self, form: Form, channels: int, classes: int, *, dtype: Any = None) -> None:
        block = Bottleneck if form.bottleneck else BasicBlock
        width = form.widths[0]
        kernel, stride = (7, 2) if form.stem == "imagenet" else (3, 1)
        self.conv1 = conv(channels, width, kernel, stride=stride, dtype=dtype)
        self.bn1 = BatchNorm(width)
        self.pool = form.stem == "imagenet"
        self.stages = len(form.depths)
        inputs = width
        for stage, (depth, width) in enumerate(zip(form.depths, form.widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                changes = stride > 1 or inputs != width * block.expansion
                project = changes and form.shortcut == "projection"
                blocks.append(block(inputs, width, stride=stride, project=project, dtype=dtype))
                inputs = width * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        self.fc = linear(inputs, classes, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes] in the dtype of the parameters."""
        x = jax.nn.relu(self.bn1(self.conv1(inputs)))
        if self.pool:
            x = max_pool(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            for block in getattr(self, f"layer{stage + 1}"):
                x = block(x)
        return logits(self.fc, jnp.mean(x, (1, 2)))


def _create(
    form: Form,
    *,
    example: Any,
    classes: int,
    seed: int,
    dtype: str | None = None,
    shortcut: str | None = None,
    stem: str | None = None,
    widths: Sequence[int] | None = None,
) -> Model:
    """Makes a residual network with float32 weights; see `domino_jax.models.create`.

    Args:
        form: the network.
        example: one array of images, [1, H, W, C]: gives the number of channels.
        classes: number of logits.
        seed: of the weights.
        dtype: as for `domino_jax.models.convolutional.make`.
        shortcut: instead of the form's: 'projection' or 'pad'.
        stem: instead of the form's: 'imagenet' or 'cifar'.
        widths: instead of the form's: channels inside the blocks of each stage.

    Raises:
        InputError: an option has another value, or the example is not one array of images.
    """
    _require(("shortcut", shortcut, SHORTCUTS), ("stem", stem, STEMS))
    widths = form.widths if widths is None else tuple(widths)
    if len(widths) != len(form.depths):
        raise InputError(
            f"widths: expected one for each of {len(form.depths)} stages, got {widths}"
        )
    require_positive(**{f"widths[{stage}]": width for stage, width in enumerate(widths)})
    form = replace(form, widths=widths, stem=stem or form.stem, shortcut=shortcut or form.shortcut)
    return make(
        lambda channels: ResNet(form, channels, classes, dtype=dtype),
        example=example,
        classes=classes,
        seed=seed,
        dtype=dtype,
    )


def _require(*options: tuple[str, str | None, Sequence[str]]) -> None:
    """Refuses values of options (name, value, allowed) that are neither None nor allowed."""
    for name, value, allowed in options:
        if value is not None:
            paths.require_known([value], allowed, what=name)


def __getattr__(name: str) -> partial[Model]:
    """Makes the factory of a form of the table, such as `resnet.resnet18`."""
    if name not in FORMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_create, FORMS[name])

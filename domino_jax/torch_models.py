"""Our residual networks as PyTorch modules, with torchvision's state-dict names; PyTorch alone.

The counterpart of `domino_jax.models.resnet`: the same forms, paddings and shortcuts. This file
imports nothing of the package, so it can be copied next to `torch_runtime.py`.
Letters: B examples, C channels, H, W image rows and columns.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

SHORTCUTS = ("projection", "pad")
STEMS = ("imagenet", "cifar")


@dataclass(frozen=True)
class Form:
    """What distinguishes one residual network from another.

    Attributes:
        bottleneck: blocks of a 1x1, a 3x3 and a 1x1 convolution, not of two 3x3 ones.
        depths: blocks of each stage.
        widths: channels inside the blocks of each stage; a bottleneck gives out four times as many.
        stem: 'imagenet' (7x7 stride 2, max-pool stride 2) or 'cifar' (3x3).
        shortcut: where a block changes the shape: 'projection' (1x1 convolution and batch norm) or
            'pad' (every second position, zeros for the new channels).
    """

    bottleneck: bool
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "imagenet"
    shortcut: str = "projection"


def _cifar(bottleneck: bool, depth: int, shortcut: str) -> Form:
    return Form(bottleneck, (depth,) * 3, (16, 32, 64), "cifar", shortcut)


FORMS = {
    "resnet18": Form(False, (2, 2, 2, 2)),
    "resnet34": Form(False, (3, 4, 6, 3)),
    "resnet50": Form(True, (3, 4, 6, 3)),
    "resnet101": Form(True, (3, 4, 23, 3)),
    "resnet152": Form(True, (3, 8, 36, 3)),
    "resnet20": _cifar(False, 3, "pad"),
    "resnet32": _cifar(False, 5, "pad"),
    "resnet44": _cifar(False, 7, "pad"),
    "resnet56": _cifar(False, 9, "pad"),
    "resnet110": _cifar(False, 18, "pad"),
    "resnet56_bottleneck": _cifar(True, 9, "projection"),
}


class Block(nn.Module):
    """Convolutions with batch norms and a shortcut; the stride is on the (first) 3x3 one."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, bottleneck: bool, project: bool, folded: bool
    ) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        self.outputs = width * 4 if bottleneck else width
        self.count = len(kernels)
        self.stride = stride
        channels = (inputs, *(width,) * (self.count - 1), self.outputs)
        strided = 1 if bottleneck else 0
        for i, kernel in enumerate(kernels):
            step = stride if i == strided else 1
            conv = _conv(channels[i], channels[i + 1], kernel, stride=step, folded=folded)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", _norm(channels[i + 1], folded))
        self.downsample = (
            nn.Sequential(
                _conv(inputs, self.outputs, 1, stride=stride, folded=folded),
                _norm(self.outputs, folded),
            )
            if project
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, outputs, H / stride, W / stride]."""
        x = inputs
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.count:
                x = functional.relu(x)
        return functional.relu(x + self._shortcut(inputs))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if self.downsample is not None:
            return self.downsample(inputs)
        missing = self.outputs - inputs.shape[1]
        if self.stride == 1 and missing == 0:
            return inputs
        sides = (missing // 2, missing - missing // 2)
        return functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *sides))


class ResNet(nn.Module):
    """A residual network: stem, stages `layer1`, `layer2`, …, mean over the image, `fc`."""

    def __init__(self, form: Form, *, classes: int, in_channels: int, folded: bool) -> None:
        super().__init__()
        width = form.widths[0]
        kernel, stride = (7, 2) if form.stem == "imagenet" else (3, 1)
        self.conv1 = _conv(in_channels, width, kernel, stride=stride, folded=folded)
        self.bn1 = _norm(width, folded)
        self.pool = form.stem == "imagenet"
        self.stages = len(form.depths)
        expansion = 4 if form.bottleneck else 1
        inputs = width
        for stage, (depth, width) in enumerate(zip(form.depths, form.widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                changes = stride > 1 or inputs != width * expansion
                blocks.append(
                    Block(
                        inputs,
                        width,
                        stride=stride,
                        bottleneck=form.bottleneck,
                        project=changes and form.shortcut == "projection",
                        folded=folded,
                    )
                )
                inputs = width * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps images [B, C, H, W] to logits [B, classes]."""
        x = functional.relu(self.bn1(self.conv1(inputs)))
        if self.pool:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(torch.mean(x, (2, 3)))


def create(
    name: str,
    *,
    classes: int,
    in_channels: int = 3,
    folded: bool = False,
    shortcut: str | None = None,
    stem: str | None = None,
    dtype: str | None = None,
) -> ResNet:
    """Makes a residual network with PyTorch's own random weights, float32, on the CPU.

    Args:
        name: one of `FORMS`.
        classes: number of logits.
        in_channels: of the images.
        folded: batch norms are folded into the convolutions, which then have a bias.
        shortcut: instead of the form's: 'projection' or 'pad'.
        stem: instead of the form's: 'imagenet' or 'cifar'.
        dtype: of the computation in JAX; without a meaning here, where the weights decide.

    Raises:
        ValueError: an unknown name, or an option has another value.
    """
    del dtype
    _require("model", name, tuple(FORMS))
    _require("shortcut", shortcut or FORMS[name].shortcut, SHORTCUTS)
    _require("stem", stem or FORMS[name].stem, STEMS)
    if classes < 1 or in_channels < 1:
        raise ValueError(
            f"{name}: classes and in_channels are 1 or more, got {classes} and {in_channels}"
        )
    form = FORMS[name]
    form = replace(form, stem=stem or form.stem, shortcut=shortcut or form.shortcut)
    return ResNet(form, classes=classes, in_channels=in_channels, folded=folded)


def _require(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} {value!r}: one of {', '.join(allowed)} is wanted")


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int, folded: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=folded)


def _norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)

"""Residual networks in PyTorch, with torchvision's state-dict names.

torchvision lacks the forms for CIFAR, their stem and their shortcut.
Letters: B examples, C channels, H, W image rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from .resnet_forms import FORMS, SHORTCUTS, STEMS, Form


class Block(nn.Module):
    """Convolutions with batch norms and a shortcut; the stride is on the (first) 3x3 one."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, bottleneck: bool, project: bool
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
            conv = _conv(channels[i], channels[i + 1], kernel, stride=step)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.downsample = (
            nn.Sequential(
                _conv(inputs, self.outputs, 1, stride=stride),
                nn.BatchNorm2d(self.outputs),
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

    def __init__(self, form: Form, *, classes: int, in_channels: int) -> None:
        super().__init__()
        width = form.widths[0]
        kernel, stride = (7, 2) if form.stem == "imagenet" else (3, 1)
        self.conv1 = _conv(in_channels, width, kernel, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
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


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    shortcut: str | None = None,
    stem: str | None = None,
    widths: Sequence[int] | None = None,
) -> nn.Module:
    """Makes a residual network of a form, or of a form with these parts changed.

    Raises:
        ValueError: an unknown shortcut or stem.
    """
    form = FORMS[name]
    form = replace(
        form,
        stem=stem or form.stem,
        shortcut=shortcut or form.shortcut,
        widths=form.widths if widths is None else tuple(widths),
    )
    for what, value, allowed in (
        ("shortcut", form.shortcut, SHORTCUTS),
        ("stem", form.stem, STEMS),
    ):
        if value not in allowed:
            raise ValueError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")
    return ResNet(form, classes=classes, in_channels=channels)

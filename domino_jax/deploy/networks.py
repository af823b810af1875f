"""Our networks as PyTorch modules, with torchvision's state-dict names; PyTorch alone.

The counterpart of `domino_jax.models`. Residual networks (whose CIFAR forms, stems and shortcuts
torchvision lacks) and VGG for CIFAR are defined here; RegNetX, GoogLeNet and vision transformers
are torchvision's own, imported when one is made; so is `language.py` beside this file, which
holds the byte language model. Nothing else of the package is needed, so both can be copied next to
`runtime.py`.
Letters: B examples, C channels, H, W image rows and columns.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

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
    "resnet8": _cifar(False, 1, "pad"),
    "resnet20": _cifar(False, 3, "pad"),
    "resnet32": _cifar(False, 5, "pad"),
    "resnet44": _cifar(False, 7, "pad"),
    "resnet56": _cifar(False, 9, "pad"),
    "resnet110": _cifar(False, 18, "pad"),
    "resnet56_bottleneck": _cifar(True, 9, "projection"),
}
VGGS = {"vgg16_cifar": (2, 2, 3, 3, 3), "vgg19_cifar": (2, 2, 4, 4, 4)}  # convolutions of stages
REGNETS = ("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf")
VITS = {"vit_ti16": (192, 3), "vit_s16": (384, 6), "vit_b16": (768, 12)}  # width, heads


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


class VGG(nn.Module):
    """Five stages of 3x3 convolutions numbered as torchvision's, mean over the image, `classifier`.

    With one linear layer it is the form of github.com/kuangliu/pytorch-cifar.
    """

    def __init__(self, depths: tuple[int, ...], *, classes: int, in_channels: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        inputs = in_channels
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                steps.append(nn.Conv2d(inputs, width, 3, padding=1))
                steps += [nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            steps.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*steps)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps images [B, C, H, W] to logits [B, classes]."""
        return self.classifier(torch.mean(self.features(inputs), (2, 3)))


def create(
    name: str,
    *,
    classes: int,
    in_channels: int | None = 3,
    image: tuple[int, int] | None = None,
    positions: int | None = None,
    folded: bool = False,
    dtype: str | None = None,
    **options: Any,
) -> nn.Module:
    """Makes a network with PyTorch's own random weights, float32, on the CPU.

    Args:
        name: one of `NAMES`.
        classes: number of logits.
        in_channels: of the images; a language model has none.
        image: rows and columns of the images, which a vision transformer alone needs to know.
        positions: the largest number of bytes, which a language model alone needs to know.
        folded: batch norms are folded into the convolutions, which then have a bias.
        dtype: of the computation in JAX; without a meaning here, where the weights decide.
        **options: of residual networks `shortcut` ('projection' or 'pad'), `stem` ('imagenet' or
            'cifar') and `widths` instead of the form's; of GoogLeNet `dropout` (0.2) and
            `transform_input` (False); of vision transformers `patch` (16); of the language model
            `width` (128), `depth` (4) and `heads` (4).

    Raises:
        ValueError: an unknown name, an option has another value, torchvision is needed and not
            there, or there is nothing to fold.
    """
    del dtype
    _require("model", name, NAMES)
    if name == "byte_lm":
        in_channels, options["positions"] = 1, positions
    if classes < 1 or in_channels is None or in_channels < 1:
        raise ValueError(
            f"{name}: classes and in_channels are 1 or more, got {classes} and {in_channels}"
        )
    if name in VITS:
        options["image"] = image
    model = _BUILDERS[name](name, classes, in_channels, **options)
    if folded:
        _fold(name, model)
    return model


def of_export(document: Mapping[str, Any], name: str = "") -> nn.Module:
    """Makes the network that an export.json describes.

    Args:
        document: its content.
        name: of another network instead.

    Raises:
        ValueError: as `create`.
    """
    image = document.get("image")
    return create(
        name or document["model"],
        classes=document["classes"],
        in_channels=document["in_channels"],
        image=None if image is None else (image[0], image[1]),
        positions=document.get("positions"),
        folded=document.get("folded", False),
        **document.get("model_options", {}),
    )


def _resnet(
    name: str,
    classes: int,
    channels: int,
    *,
    shortcut: str | None = None,
    stem: str | None = None,
    widths: Sequence[int] | None = None,
) -> nn.Module:
    form = FORMS[name]
    form = replace(
        form,
        stem=stem or form.stem,
        shortcut=shortcut or form.shortcut,
        widths=form.widths if widths is None else tuple(widths),
    )
    _require("shortcut", form.shortcut, SHORTCUTS)
    _require("stem", form.stem, STEMS)
    return ResNet(form, classes=classes, in_channels=channels)


def _vgg(name: str, classes: int, channels: int) -> nn.Module:
    return VGG(VGGS[name], classes=classes, in_channels=channels)


def _regnet(name: str, classes: int, channels: int) -> nn.Module:
    return _with_channels(_torchvision(name).get_model(name, num_classes=classes), channels)


def _googlenet(
    name: str, classes: int, channels: int, *, dropout: float = 0.2, transform_input: bool = False
) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False, "transform_input": transform_input}
    model = _torchvision(name).GoogLeNet(num_classes=classes, dropout=dropout, **options)
    return _with_channels(model, channels)


def _vit(
    name: str, classes: int, channels: int, *, image: tuple[int, int] | None, patch: int = 16
) -> nn.Module:
    if image is None or image[0] != image[1] or image[0] % patch:
        raise ValueError(
            f"{name}: torchvision's takes square images of a multiple of the patch {patch}, "
            f"image=(rows, columns), got {image}"
        )
    width, heads = VITS[name]
    model = _torchvision(name).VisionTransformer(
        image_size=image[0],
        patch_size=patch,
        num_layers=12,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=classes,
    )
    return _with_channels(model, channels)


def _byte_lm(name: str, classes: int, channels: int, **options: Any) -> nn.Module:
    del name, channels
    beside = f"{__package__}.language" if __package__ else "language"
    return import_module(beside).byte_lm(classes=classes, **options)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(FORMS, _resnet),
    **dict.fromkeys(VGGS, _vgg),
    **dict.fromkeys(REGNETS, _regnet),
    "googlenet": _googlenet,
    **dict.fromkeys(VITS, _vit),
    "byte_lm": _byte_lm,
}
NAMES = tuple(_BUILDERS)


def _torchvision(name: str) -> Any:
    """Imports the definitions of torchvision: an extra, which must fit PyTorch's version."""
    try:
        return import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # RuntimeError: of another version of PyTorch
        raise ValueError(
            f"model {name!r} is torchvision's own, which cannot be imported "
            f"({str(error).splitlines()[0]}): install one that fits this PyTorch"
        ) from None


def _with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Lets torchvision's networks, which take 3 channels, take others."""
    conv: Any  # PyTorch types its sizes too loosely
    path, conv = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != channels:
        other = nn.Conv2d(
            channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            bias=conv.bias is not None,
        )
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, other)
    return model


def _fold(name: str, model: nn.Module) -> None:
    """Puts nothing in the place of each batch norm and a bias into the convolution before it."""
    count = 0
    for parent in list(model.modules()):
        for (_, conv), (last, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, last, nn.Identity())
                if conv.bias is None:
                    conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
                count += 1
    if not count:
        raise ValueError(f"{name}: has no batch norms that could be folded")


def _require(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} {value!r}: one of {', '.join(allowed)} is wanted")


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)

"""Our networks as PyTorch modules, with torchvision's state-dict names.

A network is found by the name that it has in `domino_jax.models`, its twin in JAX. A builder takes
the name, `classes`, and those of `channels`, `image` and `positions` that it asks for.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from . import language, resnet, torchvision_networks, vgg
from .resnet_forms import FORMS

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(FORMS, resnet.build),
    **dict.fromkeys(vgg.DEPTHS, vgg.build),
    **dict.fromkeys(torchvision_networks.REGNETS, torchvision_networks.regnet),
    "googlenet": torchvision_networks.googlenet,
    **dict.fromkeys(torchvision_networks.VITS, torchvision_networks.vit),
    "byte_lm": language.build,
}
NAMES = tuple(NETWORKS)


def create(
    name: str,
    *,
    classes: int,
    in_channels: int | None = 3,
    image: tuple[int, int] | None = None,
    positions: int | None = None,
    folded: bool = False,
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
        **options: of residual networks `shortcut` ('projection' or 'pad'), `stem` ('imagenet' or
            'cifar') and `widths` instead of the form's; of GoogLeNet `dropout` (0.2) and
            `transform_input` (False); of vision transformers `patch` (16); of the language model
            `width` (128), `depth` (4) and `heads` (4).

    Raises:
        ValueError: an unknown name, an option has another value, torchvision is needed and not
            there, or there is nothing to fold.
    """
    if name not in NETWORKS:
        raise ValueError(f"model: expected one of {', '.join(NAMES)}, got {name!r}")
    builder = NETWORKS[name]
    sizes = {"channels": in_channels, "image": image, "positions": positions}
    asked = inspect.signature(builder).parameters
    sizes = {key: value for key, value in sizes.items() if key in asked}
    if classes < 1 or ("channels" in sizes and (in_channels is None or in_channels < 1)):
        raise ValueError(
            f"{name}: classes and in_channels are 1 or more, got {classes} and {in_channels}"
        )
    model = builder(name, classes=classes, **sizes, **options)
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

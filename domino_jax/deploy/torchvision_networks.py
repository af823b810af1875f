"""Networks that are torchvision's own, imported when one is made.

torchvision is an extra, which must fit PyTorch's version.
"""

from importlib import import_module
from typing import Any

from torch import nn

REGNETS = ("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf")
VITS = {"vit_ti16": (192, 3), "vit_s16": (384, 6), "vit_b16": (768, 12)}  # width, heads


def regnet(name: str, *, classes: int, channels: int) -> nn.Module:
    """Makes a RegNetX."""
    return _with_channels(_torchvision(name).get_model(name, num_classes=classes), channels)


def googlenet(
    name: str,
    *,
    classes: int,
    channels: int,
    dropout: float = 0.2,
    transform_input: bool = False,
) -> nn.Module:
    """Makes a GoogLeNet without auxiliary heads."""
    options = {"aux_logits": False, "init_weights": False, "transform_input": transform_input}
    model = _torchvision(name).GoogLeNet(num_classes=classes, dropout=dropout, **options)
    return _with_channels(model, channels)


def vit(
    name: str,
    *,
    classes: int,
    channels: int,
    image: tuple[int, int] | None,
    patch: int = 16,
) -> nn.Module:
    """Makes a vision transformer.

    Raises:
        ValueError: the images are no square of a multiple of the patch.
    """
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

"""The forms of our residual networks, for JAX as for PyTorch: one table, standard library only."""

from dataclasses import dataclass

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

"""GoogLeNet (Szegedy et al. 2015) as torchvision has it: with batch norm, 3x3 for 5x5.

Sub-modules have torchvision's names: `inception3a/branch2/1/conv/kernel`. The auxiliary heads,
which help training alone and whose pretrained weights torchvision itself drops, are not there;
`domino_jax.pytorch.joining` leaves them out of a file. Letters: B examples, H, W image rows and
columns, C channels.
"""

from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core.errors import InputError
from domino_jax.models import Model
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.models.convolutional import conv, in_turn, logits, make
from domino_jax.models.linear import linear
from domino_jax.models.pooling import max_pool

EPSILON = 1e-3  # of torchvision's BasicConv2d
SMALLEST = 15  # rows and columns that leave something to pool
DROPOUT = 0.2
# Channels out of branch 1, inside and out of branches 2 and 3, out of branch 4 (paper, table 1).
STAGES: dict[str, dict[str, tuple[int, ...]]] = {
    "3": {"a": (64, 96, 128, 16, 32, 32), "b": (128, 128, 192, 32, 96, 64)},
    "4": {
        "a": (192, 96, 208, 16, 48, 64),
        "b": (160, 112, 224, 24, 64, 64),
        "c": (128, 128, 256, 24, 64, 64),
        "d": (112, 144, 288, 32, 64, 64),
        "e": (256, 160, 320, 32, 128, 128),
    },
    "5": {"a": (256, 160, 320, 32, 128, 128), "b": (384, 192, 384, 48, 128, 128)},
}


class BasicConv(nnx.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dtype: Any
    ) -> None:
        self.conv = conv(inputs, outputs, kernel, stride=stride, dtype=dtype)
        self.bn = BatchNorm(outputs, epsilon=EPSILON)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, outputs]."""
        return jax.nn.relu(self.bn(self.conv(inputs)))


class Inception(nnx.Module):
    """Four branches side by side; the third has a 3x3 where the paper has a 5x5 (torchvision)."""

    def __init__(self, inputs: int, channels: Sequence[int], *, dtype: Any) -> None:
        one, in_two, two, in_three, three, four = channels
        self.branch1 = BasicConv(inputs, one, 1, dtype=dtype)
        self.branch2 = _pair(inputs, in_two, two, dtype=dtype)
        self.branch3 = _pair(inputs, in_three, three, dtype=dtype)
        pool = partial(max_pool, window=3, stride=1, padding=1)
        self.branch4 = nnx.List([pool, BasicConv(inputs, four, 1, dtype=dtype)])
        self.outputs = one + two + three + four

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, outputs]."""
        lists = (self.branch2, self.branch3, self.branch4)
        outputs = [self.branch1(inputs), *(in_turn(branch, inputs) for branch in lists)]
        return jnp.concatenate(outputs, 3)


def _pair(inputs: int, inside: int, outputs: int, *, dtype: Any) -> nnx.List:
    """Makes a 1x1 and a 3x3 convolution."""
    return nnx.List(
        [BasicConv(inputs, inside, 1, dtype=dtype), BasicConv(inside, outputs, 3, dtype=dtype)]
    )


class GoogLeNet(nnx.Module):
    """Stem, inception modules, mean over the image, dropout, `fc`."""

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        dropout: float,
        transform_input: bool,
        dtype: Any = None,
    ) -> None:
        self.transform_input = transform_input
        self.conv1 = BasicConv(channels, 64, 7, stride=2, dtype=dtype)
        self.conv2 = BasicConv(64, 64, 1, dtype=dtype)
        self.conv3 = BasicConv(64, 192, 3, dtype=dtype)
        inputs = 192
        for stage, modules in STAGES.items():
            for letter, widths in modules.items():
                module = Inception(inputs, widths, dtype=dtype)
                setattr(self, f"inception{stage}{letter}", module)
                inputs = module.outputs
        self.dropout = nnx.Dropout(dropout, rngs=nnx.Rngs(0)) if dropout else None
        self.fc = linear(inputs, classes, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes] in the dtype of the parameters."""
        x = _transformed(inputs) if self.transform_input else inputs
        x = max_pool(self.conv1(x), 3, stride=2, ceil=True)
        x = max_pool(self.conv3(self.conv2(x)), 3, stride=2, ceil=True)
        for stage, modules in STAGES.items():
            for letter in modules:
                x = getattr(self, f"inception{stage}{letter}")(x)
            if stage != "5":
                x = max_pool(x, 3 if stage == "3" else 2, stride=2, ceil=True)
        x = jnp.mean(x, (1, 2))
        return logits(self.fc, x if self.dropout is None else self.dropout(x))


def _transformed(images: jax.Array) -> jax.Array:
    """Brings images of ImageNet's mean and deviation to mean and deviation 1/2 (torchvision)."""
    factor = jnp.asarray([0.229, 0.224, 0.225], images.dtype) / 0.5
    shift = (jnp.asarray([0.485, 0.456, 0.406], images.dtype) - 0.5) / 0.5
    return images * factor[None, None, None] + shift[None, None, None]


def googlenet(
    *,
    example: Any,
    classes: int,
    seed: int,
    dtype: str | None = None,
    dropout: float = DROPOUT,
    transform_input: bool = False,
) -> Model:
    """Makes a GoogLeNet with float32 weights; see `domino_jax.models.create`.

    Args:
        example: one array of images, [1, H, W, C], at least 15 by 15.
        classes: number of logits.
        seed: of the weights.
        dtype: as for `domino_jax.models.convolutional.make`.
        dropout: share of the features that training drops before `fc`, at least 0, below 1.
        transform_input: torchvision's option, which its pretrained weights need where images are
            normalized by ImageNet's mean and deviation: they expect 1/2 and 1/2.

    Raises:
        InputError: an option has another value, or the example is not one array of such images.
    """
    if not isinstance(dropout, Real) or not 0 <= dropout < 1:
        raise InputError(f"dropout: expected a share from 0 to below 1, got {dropout!r}")
    if not isinstance(transform_input, bool):
        raise InputError(f"transform_input: expected True or False, got {transform_input!r}")

    def network(channels: int) -> GoogLeNet:
        if transform_input and channels != 3:
            raise InputError(f"transform_input: wants images of 3 channels, got {channels}")
        return GoogLeNet(
            channels, classes, dropout=dropout, transform_input=transform_input, dtype=dtype
        )

    return make(
        network,
        example=example,
        classes=classes,
        seed=seed,
        dtype=dtype,
        smallest=SMALLEST,
    )

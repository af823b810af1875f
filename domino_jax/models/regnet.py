"""RegNetX networks (Radosavovic et al. 2020) as torchvision has them: grouped bottlenecks.

Sub-modules have torchvision's names: `trunk_output/block1/block1-0/f/b/0/kernel` is a grouped 3x3
convolution, which sees `group_width` input channels for each output, so groups of M weights fit
only where M divides it. Letters: B examples, H, W image rows and columns, C channels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.models import Model
from domino_jax.models.convolutional import conv_norm, in_turn, logits, make
from domino_jax.models.linear import linear

STEM = 32


@dataclass(frozen=True)
class Form:
    """What distinguishes one RegNetX from another.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage, multiples of `group_width`.
        group_width: input channels that an output of a 3x3 convolution sees.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int


class Transform(nnx.Module):
    """1x1, grouped 3x3 and 1x1 convolutions of one width; the stride is on the 3x3."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, group_width: int, dtype: Any
    ) -> None:
        groups = width // group_width
        self.a = conv_norm(inputs, width, 1, dtype=dtype)
        self.b = conv_norm(width, width, 3, stride=stride, groups=groups, dtype=dtype)
        self.c = conv_norm(width, width, 1, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, width]."""
        x = jax.nn.relu(in_turn(self.a, inputs))
        x = jax.nn.relu(in_turn(self.b, x))
        return in_turn(self.c, x)


class Block(nnx.Module):
    """A transform and a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, group_width: int, dtype: Any
    ) -> None:
        changes = stride > 1 or inputs != width
        self.proj = conv_norm(inputs, width, 1, stride=stride, dtype=dtype) if changes else None
        self.f = Transform(inputs, width, stride=stride, group_width=group_width, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, width]."""
        shortcut = inputs if self.proj is None else in_turn(self.proj, inputs)
        return jax.nn.relu(shortcut + self.f(inputs))


class Named(nnx.Module):
    """Modules in turn, under names that tell no order (nnx.Dict sorts its members)."""

    def __init__(self, members: dict[str, nnx.Module]) -> None:
        self.names = tuple(members)
        for name, member in members.items():
            setattr(self, name, member)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Calls them one after the other."""
        return in_turn((getattr(self, name) for name in self.names), inputs)


class RegNet(nnx.Module):
    """Stem, stages `block1`, `block2`, …, mean over the image, `fc`."""

    def __init__(self, form: Form, channels: int, classes: int, *, dtype: Any = None) -> None:
        self.stem = conv_norm(channels, STEM, 3, stride=2, dtype=dtype)
        stages: dict[str, nnx.Module] = {}
        inputs = STEM
        for number, (depth, width) in enumerate(zip(form.depths, form.widths, strict=True), 1):
            blocks: dict[str, nnx.Module] = {}
            for index in range(depth):
                blocks[f"block{number}-{index}"] = Block(
                    inputs,
                    width,
                    stride=1 if index else 2,
                    group_width=form.group_width,
                    dtype=dtype,
                )
                inputs = width
            stages[f"block{number}"] = Named(blocks)
        self.trunk_output = Named(stages)
        self.fc = linear(inputs, classes, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes] in the dtype of the parameters."""
        x = self.trunk_output(jax.nn.relu(in_turn(self.stem, inputs)))
        return logits(self.fc, jnp.mean(x, (1, 2)))


def _create(
    form: Form, *, example: Any, classes: int, seed: int, dtype: str | None = None
) -> Model:
    """Makes a RegNetX; the arguments are those of `domino_jax.models.convolutional.make`."""
    return make(
        lambda channels: RegNet(form, channels, classes, dtype=dtype),
        example=example,
        classes=classes,
        seed=seed,
        dtype=dtype,
    )


# torchvision's stages; the paper's 400MF ends with 384 channels, which makes 5.2 M parameters.
regnet_x_400mf = partial(_create, Form((1, 2, 7, 12), (32, 64, 160, 400), 16))
regnet_x_800mf = partial(_create, Form((1, 3, 7, 5), (64, 128, 288, 672), 16))
regnet_x_1_6gf = partial(_create, Form((2, 4, 10, 2), (72, 168, 408, 912), 24))
regnet_x_3_2gf = partial(_create, Form((2, 6, 15, 2), (96, 192, 432, 1008), 48))

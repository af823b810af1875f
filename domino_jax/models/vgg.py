"""VGG networks (Simonyan and Zisserman 2015, D and E) with batch norm, in the usual form of CIFAR.

Convolutions with biases, numbered as torchvision's `vgg16_bn` and `vgg19_bn` (`features/0/kernel`
and its norm `features/1/scale`), five max-pools, and one linear layer `classifier` instead of
three: the form of github.com/kuangliu/pytorch-cifar, whose weights it takes.
Letters: B examples, H, W image rows and columns, C channels.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.models import Model
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.models.convolutional import conv, in_turn, logits, make
from domino_jax.models.linear import linear
from domino_jax.models.pooling import max_pool

WIDTHS = (64, 128, 256, 512, 512)
SMALLEST = 2 ** len(WIDTHS)


class VGG(nnx.Module):
    """Convolutions, a max-pool after each stage, mean over what is left of the image, `classifier`.

    At 32x32 one position is left.
    """

    def __init__(
        self, depths: tuple[int, ...], channels: int, classes: int, *, dtype: Any = None
    ) -> None:
        steps: list[Any] = []
        inputs = channels
        for depth, width in zip(depths, WIDTHS, strict=True):
            for _ in range(depth):
                steps += [conv(inputs, width, 3, bias=True, dtype=dtype), BatchNorm(width)]
                steps.append(jax.nn.relu)
                inputs = width
            steps.append(partial(max_pool, window=2, stride=2))
        self.features = nnx.List(steps)
        self.classifier = linear(inputs, classes, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes] in the dtype of the parameters."""
        x = in_turn(self.features, inputs)
        return logits(self.classifier, jnp.mean(x, (1, 2)))


def _create(
    depths: tuple[int, ...], *, example: Any, classes: int, seed: int, dtype: str | None = None
) -> Model:
    """Makes a VGG; the arguments are those of `domino_jax.models.convolutional.make`."""
    return make(
        lambda channels: VGG(depths, channels, classes, dtype=dtype),
        example=example,
        classes=classes,
        seed=seed,
        dtype=dtype,
        smallest=SMALLEST,
    )


vgg16_cifar = partial(_create, (2, 2, 3, 3, 3))
vgg19_cifar = partial(_create, (2, 2, 4, 4, 4))

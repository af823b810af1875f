"""A segmentation of one's own, some pixels without a label: for runs of a second."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from domino_jax.data.arrays import from_arrays
from domino_jax.models import plain

SIDE = 6


def data(*, data_dir, workers, ignore_label=None, only=False):
    """Each pixel is of the class of its color; a third of them is not labelled, or all."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (64, SIDE, SIDE))
    images = np.eye(3, dtype=np.float32)[labels] + 0.1 * rng.normal(size=(64, SIDE, SIDE, 3))
    if ignore_label is not None:
        labels[(rng.random(labels.shape) < 0.3) | only] = ignore_label
    part = images.astype(np.float32), labels
    return from_arrays(part, part, classes=3, ignore_label=ignore_label)


def network(*, example, classes, seed):
    rng = np.random.default_rng(seed)
    shapes = {"stem": (1, 1, 3, 8), "body": (1, 1, 8, 8), "head": (1, 1, 8, classes)}
    params = {
        name: {"kernel": jnp.asarray(rng.normal(size=shape) * shape[2] ** -0.5, jnp.float32)}
        for name, shape in shapes.items()
    }

    def apply(params, x):
        for name in shapes:
            kernel = params[name]["kernel"]
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x if name == "head" else jnp.maximum(x, 0)
        return x

    return plain(apply, params)

"""Batch norm folded into the convolution before it: one multiply-add less for each activation.

    norm(conv(x; w)) = conv(x; w · s) + (bias - mean · s),   s = scale / sqrt(var + eps)

Every output is scaled as a whole, so zeros stay where they are and masks do not change.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from domino_jax.masks import Axes

EPSILON = 1e-5  # PyTorch's, and that of domino_jax.models.batch_norm


class Folded(NamedTuple):
    """A network whose batch norms do nothing but add a bias.

    Attributes:
        params: path -> array: kernels scaled, scales 1, biases what remains of the norm.
        stats: path -> array: mean 0, and the var that makes a factor of exactly 1.
        convolutions: path of each norm's module -> path of its convolution's kernel.
    """

    params: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    convolutions: dict[str, str]


def fold(
    params: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    axes: Mapping[str, Axes],
    epsilon: float = EPSILON,
) -> Folded:
    """Folds every batch norm into the convolution that stands before it, by name.

    `bn2` belongs to `conv2` of the same module, member 1 of a list to member 0. Whether the network
    computes in this order is for the caller to check: logits must not change.

    Args:
        params: path -> array, [C] for scale and bias.
        stats: path -> array, [C] for mean and var.
        axes: path -> axes of each kernel.
        epsilon: of the norms.

    Raises:
        ValueError: a norm without such a convolution, or there is no norm.
    """
    norms = [path.rpartition("/")[0] for path in stats if path.split("/")[-1] == "var"]
    if not norms:
        raise ValueError("there is no batch norm to fold")
    new, flat, pairs = dict(params), dict(stats), {}
    for norm in norms:
        kernel = _before(norm)
        if kernel not in params or kernel not in axes:
            raise ValueError(f"batch norm {norm}: no convolution {kernel} to fold it into")
        bias = f"{kernel.rpartition('/')[0]}/bias"
        if bias in params:
            raise ValueError(f"batch norm {norm}: {bias} stands between it and its convolution")
        var = stats[f"{norm}/var"].astype(np.float64)
        factor = params[f"{norm}/scale"].astype(np.float64) / np.sqrt(var + epsilon)
        shift = params[f"{norm}/bias"] - stats[f"{norm}/mean"].astype(np.float64) * factor
        new[kernel] = _scaled(params[kernel], factor, axes[kernel])
        new[f"{norm}/scale"] = np.ones_like(params[f"{norm}/scale"])
        new[f"{norm}/bias"] = shift.astype(np.float32)
        flat[f"{norm}/mean"] = np.zeros_like(stats[f"{norm}/mean"])
        flat[f"{norm}/var"] = np.full_like(stats[f"{norm}/var"], 1 - epsilon)
        pairs[norm] = kernel
    return Folded(new, flat, pairs)


def _before(norm: str) -> str:
    owner, slash, last = norm.rpartition("/")
    conv = str(int(last) - 1) if last.isdecimal() else re.sub(r"^(bn|norm)", "conv", last)
    return f"{owner}{slash}{conv}/kernel"


def _scaled(kernel: np.ndarray, factor: np.ndarray, axes: Axes) -> np.ndarray:
    """Multiplies each output of a kernel by its factor [C]."""
    (output,) = axes.outputs
    shape = [-1 if axis == output else 1 for axis in range(kernel.ndim)]
    # A kept weight may not become zero, nor a removed one anything else: 0 · x is 0.
    return (kernel * np.reshape(factor, shape)).astype(kernel.dtype)

"""Batch norm folded into the convolution before it: one multiply-add less for each activation.

    norm(conv(x; w, b)) = conv(x; w · s) + (bias + (b - mean) · s),   s = scale / sqrt(var + eps)

Every output is scaled as a whole, so zeros stay where they are and masks do not change.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.trace.norms import norm_of


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
    epsilon_of: Mapping[str, float],
) -> Folded:
    """Folds every batch norm into the convolution that stands before it, by name.

    `bn2` belongs to `conv2` of the same module, `bn` to `conv`, member 1 of a list to member 0; a
    bias of the convolution goes into the norm's. Whether the network computes in this order is for
    the caller to check: logits must not change.

    Args:
        params: path -> array, [C] for scale and bias.
        stats: path -> array, [C] for mean and var.
        axes: path -> axes of each kernel.
        epsilon_of: path of each norm's module -> epsilon, as `trace.norms` reads them.

    Raises:
        InputError: a norm without such a convolution or without an epsilon, or there is no norm.
    """
    norms = [norm for norm in map(norm_of, stats) if norm is not None]
    if not norms:
        raise InputError("there is no batch norm to fold")
    new, flat, pairs = dict(params), dict(stats), {}
    for norm in norms:
        kernel = _before(norm)
        if kernel not in params or kernel not in axes:
            raise InputError(f"batch norm {norm}: no convolution {kernel} to fold it into")
        if norm not in epsilon_of:
            raise InputError(f"batch norm {norm}: nothing is seen to be added to its variance")
        epsilon = epsilon_of[norm]
        var = stats[f"{norm}/var"].astype(np.float64)
        factor = params[f"{norm}/scale"].astype(np.float64) / np.sqrt(var + epsilon)
        mean = stats[f"{norm}/mean"].astype(np.float64)
        bias = f"{kernel.rpartition('/')[0]}/bias"
        if bias in params:
            mean = mean - params[bias]
            new[bias] = np.zeros_like(params[bias])
        shift = params[f"{norm}/bias"] - mean * factor
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

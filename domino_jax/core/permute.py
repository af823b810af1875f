"""Input channels in another order, so that N:M keeps more: swaps between groups, one by one.

What a kernel keeps depends on which of its inputs share a group of M. Where its inputs are the
outputs of other layers, and nothing but elementwise operations lies between, all of these can be
reordered together, and the network computes what it did:

    producer [.., O] ── bias [O], norm [O] ── elementwise ── consumer [.., I, ..],  O = I

Source: Pool and Yu 2021, "Channel permutations for N:M sparsity" (swaps of channels between two
groups); here for any N:M, each consumer with its own.

Letters: I input channels, R = window positions x outputs, M group size.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import by_input
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel, kernel_weights, kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves, require_known

LEAST_GAIN = 1e-6  # of a swap, as a share of what is kept: no swap for the float's error


class Permuted(NamedTuple):
    """What `permute_channels` found.

    Attributes:
        params: with the channels in their new order.
        order: position -> which channel lies there now; [I].
        kept: sum of magnitudes that the consumers keep, before and after.
    """

    params: Any
    order: np.ndarray
    kept: tuple[float, float]


def permute_channels(
    params: Any,
    layers: Iterable[LayerSpec],
    n: Mapping[str, Any],
    channels: Mapping[str, int],
    *,
    passes: int = 10,
) -> Permuted:
    """Reorders channels that several arrays have in common, so that their consumers keep more.

    Greedy: each pass takes the best swap between every two groups, until none gains.

    Args:
        params: parameter pytree.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, [], as `n_by_path` gives it.
        channels: path -> axis of these channels, for everything that makes, carries or reads them:
            kernels that produce them, biases and norms, kernels that consume them. The network must
            treat them alike: nothing but elementwise operations between, and no other reader.
        passes: over all pairs of groups at the most.

    Raises:
        InputError: an unknown path, axes of several sizes, or no consumer with groups along its
            axis alone.
    """
    layers, by_path = tuple(layers), leaves_by_path(params)
    require_known(channels, list(by_path), what="parameter")
    size = _common_size(by_path, channels)
    grouped, weights = kernels(layers), kernel_weights(params, layers)
    consumers = {
        path: grouped[path]
        for path, axis in channels.items()
        if path in grouped and axis in grouped[path].axes.inputs
    }
    _require_consumers(consumers, channels)
    parts = [
        (
            np.asarray(by_input(jnp.abs(weights[path]), kernel.axes)),
            int(n[path]),
            kernel.m,
        )
        for path, kernel in consumers.items()
    ]
    order = np.arange(size)
    before = _kept(parts, order)
    for _ in range(passes):
        if not _improve(parts, order):
            break
    moved = {path: jnp.take(by_path[path], order, axis=axis) for path, axis in channels.items()}
    return Permuted(replace_leaves(params, moved), order, (before, _kept(parts, order)))


Parts = list[tuple[np.ndarray, int, int]]  # of each consumer: magnitudes [I, R], n and M


def _improve(parts: Parts, order: np.ndarray) -> bool:
    """Takes the best swap between every two groups, in place; says whether there was one."""
    m = parts[0][2]
    groups = [order[first : first + m] for first in range(0, len(order), m)]  # views
    gained = False
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            now = sum(_top(w[one], n) + _top(w[other], n) for w, n, _ in parts)
            best, swap = now * (1 + LEAST_GAIN), None
            for a in range(len(one)):
                for b in range(len(other)):
                    one[a], other[b] = other[b], one[a]
                    kept = sum(_top(w[one], n) + _top(w[other], n) for w, n, _ in parts)
                    one[a], other[b] = other[b], one[a]
                    if kept > best:
                        best, swap = kept, (a, b)
            if swap:
                a, b = swap
                one[a], other[b] = other[b], one[a]
                gained = True
    return gained


def _top(group: np.ndarray, n: int) -> float:
    """Sums the n largest of each column of a group [M, R]."""
    if n >= len(group):
        return float(group.sum())
    return float(np.partition(group, len(group) - n, axis=0)[len(group) - n :].sum())


def _kept(parts: Parts, order: np.ndarray) -> float:
    return sum(
        _top(w[order[first : first + m]], n) for w, n, m in parts for first in range(0, len(w), m)
    )


def _common_size(by_path: Mapping[str, Any], channels: Mapping[str, int]) -> int:
    sizes = {}
    for path, axis in channels.items():
        shape = np.shape(by_path[path])
        if not 0 <= axis < len(shape):
            raise InputError(f"{path}: expected an axis of its shape {shape}, got {axis}")
        sizes[path] = shape[axis]
    if len(set(sizes.values())) != 1:
        raise InputError(f"channels: expected axes of one size, got {sizes}")
    return next(iter(sizes.values()))


def _require_consumers(consumers: Mapping[str, Kernel], channels: Mapping[str, int]) -> None:
    """Refuses channels that no groups run along, or that groups cut in another way."""
    if not consumers:
        raise InputError(
            f"channels: expected a kernel with groups along its axis among them, got {channels}"
        )
    for path, kernel in consumers.items():
        if kernel.axes.inputs != (channels[path],) or kernel.axes.stack:
            raise InputError(
                f"{path}: expected groups along axis {channels[path]} alone, and no stack; got "
                f"inputs {kernel.axes.inputs} and stack {kernel.axes.stack}"
            )
    sizes = {path: kernel.m for path, kernel in consumers.items()}
    if len(set(sizes.values())) != 1:
        raise InputError(f"channels: expected consumers of one M, got {sizes}")

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
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import by_input, one_slice
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
        n: what is kept of every M, by path: where the channels are slices of a stack (experts),
            each has taken its own along.
    """

    params: Any
    order: np.ndarray
    kept: tuple[float, float]
    n: dict[str, np.ndarray]


def permute_channels(
    params: Any,
    layers: Iterable[LayerSpec],
    n: Mapping[str, Any],
    channels: Mapping[str, int | tuple[int, ...]],
    *,
    scores: Any = None,
    passes: int = 10,
) -> Permuted:
    """Reorders channels that several arrays have in common, so that their consumers keep more.

    Greedy: each pass takes the best swap between every two groups, until none gains.

    Args:
        params: parameter pytree.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, the shape of the stack axes, as `n_by_path` gives it.
        channels: path -> axis (or axes) of these channels, for everything that makes, carries or
            reads them: kernels that produce them, biases and norms, kernels that consume them. The
            network must treat them alike: nothing but elementwise operations between, and no other
            reader. `find_channels` lists such channels.
        scores: what to keep most of, like the params and not negative, as the loss that a weight
            costs; None for magnitudes.
        passes: over all pairs of groups at the most.

    Raises:
        InputError: an unknown path, axes of several sizes, or no consumer with groups along its
            axis alone.
    """
    layers, by_path = tuple(layers), leaves_by_path(params)
    require_known(channels, list(by_path), what="parameter")
    axes = {path: (at,) if isinstance(at, int) else tuple(at) for path, at in channels.items()}
    size = _common_size(by_path, axes)
    readers = consumers(layers, axes)
    _require_consumers(readers, axes)
    weights = kernel_weights(params if scores is None else scores, layers)
    parts = [_part(weights[path], n[path], kernel) for path, kernel in readers.items()]
    order = np.arange(size)
    before = _kept(parts, order)
    for _ in range(passes):
        if not _improve(parts, order):
            break
    kept = (before, _kept(parts, order))
    return Permuted(reordered(params, axes, order), order, kept, _n_along(n, layers, axes, order))


def reordered(tree: Any, channels: Mapping[str, Iterable[int]], order: np.ndarray) -> Any:
    """Takes the channels of some leaves in another order.

    Args:
        tree: pytree of arrays.
        channels: path -> axes along which the channels lie.
        order: position -> which channel goes there; [I].
    """
    leaves, moved = leaves_by_path(tree), {}
    for path, axes in channels.items():
        moved[path] = leaves[path]
        for axis in axes:
            moved[path] = jnp.take(moved[path], order, axis=axis)
    return replace_leaves(tree, moved)


def _n_along(
    n: Mapping[str, Any],
    layers: Iterable[LayerSpec],
    channels: Mapping[str, tuple[int, ...]],
    order: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the n of each kernel, in the new order of its slices."""
    moved = {path: np.asarray(own) for path, own in n.items()}
    for path, kernel in kernels(layers).items():
        if path not in moved or not moved[path].shape:  # one n for all slices has no order
            continue
        for axis in set(channels.get(path, ())) & set(kernel.axes.stack):
            moved[path] = np.take(moved[path], order, axis=kernel.axes.stack.index(axis))
    return moved


def consumers(
    layers: Iterable[LayerSpec], channels: Mapping[str, tuple[int, ...]]
) -> dict[str, Kernel]:
    """Picks the grouped kernels that read these channels, whatever their groups are."""
    grouped = kernels(layers)
    return {
        path: grouped[path]
        for path, axes in channels.items()
        if path in grouped and set(axes) & set(grouped[path].axes.inputs)
    }


class _Part(NamedTuple):
    """What one consumer keeps.

    Attributes:
        scores: not negative, [I, R].
        n: of every M, for each column, [R].
        m: group size.
    """

    scores: np.ndarray
    n: np.ndarray
    m: int


def _part(weights: Any, n: Any, kernel: Kernel) -> _Part:
    """Lays the slices of a stack side by side: each has its own n."""
    axes = kernel.axes
    alone = [jnp.abs(one_slice(weights, s, axes)) for s in range(len(kernel.slices))]
    flat = replace(axes, stack=(), window=(*axes.stack, *axes.window))
    rows = [np.asarray(by_input(each, flat), np.float64) for each in alone]
    of_slice = np.broadcast_to(np.asarray(n).reshape(-1), len(rows))
    columns = [np.full(each.shape[1], own) for each, own in zip(rows, of_slice, strict=True)]
    return _Part(np.concatenate(rows, 1), np.concatenate(columns), kernel.m)


def _improve(parts: list[_Part], order: np.ndarray) -> bool:
    """Takes the best swap between every two groups, in place; says whether there was one."""
    m = parts[0].m
    groups = [order[first : first + m] for first in range(0, len(order), m)]  # views
    gained = False
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            now = sum(_top(p, one) + _top(p, other) for p in parts)
            gains = sum(_exchanged(p, one, other) + _exchanged(p, other, one).T for p in parts)
            a, b = np.unravel_index(np.argmax(gains), gains.shape)
            if gains[a, b] > now * LEAST_GAIN:
                one[a], other[b] = other[b], one[a]
                gained = True
    return gained


def _exchanged(part: _Part, group: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns how much more a group keeps with one of it replaced by one of the others.

    With s the n-th largest of a column and t the next: if the one that goes was kept, the better of
    t and the new one takes its place; else the new one only counts beyond s.

    Returns:
        [in the group, in the others].
    """
    old, new = part.scores[group], part.scores[others]
    falling = -np.sort(-old, axis=0)
    rows, columns = len(falling), np.arange(old.shape[1])
    last = falling[np.minimum(part.n, rows) - 1, columns]  # the last group may be short
    following = np.where(part.n < rows, falling[np.minimum(part.n, rows - 1), columns], 0.0)
    gains = np.empty((len(group), len(others)))
    for a, gone in enumerate(old):
        kept = gone >= last
        level = np.where(kept, following, last)
        gains[a] = np.maximum(new - level, 0).sum(1) - np.where(kept, gone - level, 0).sum()
    return gains


def _top(part: _Part, group: np.ndarray) -> float:
    """Sums the n largest of each column of a group."""
    falling = -np.sort(-part.scores[group], axis=0)
    return float(falling[np.arange(len(falling))[:, None] < part.n].sum())


def _kept(parts: list[_Part], order: np.ndarray) -> float:
    return sum(
        _top(p, order[first : first + p.m]) for p in parts for first in range(0, len(order), p.m)
    )


def _common_size(by_path: Mapping[str, Any], channels: Mapping[str, tuple[int, ...]]) -> int:
    sizes = {}
    for path, axes in channels.items():
        shape = np.shape(by_path[path])
        for axis in axes:
            if not 0 <= axis < len(shape):
                raise InputError(f"{path}: expected an axis of its shape {shape}, got {axis}")
            sizes[path, axis] = shape[axis]
    if len(set(sizes.values())) != 1:
        raise InputError(f"channels: expected axes of one size, got {', '.join(_named(sizes))}")
    return next(iter(sizes.values()))


def _named(sizes: Mapping[tuple[str, int], int]) -> list[str]:
    return [f"{path} axis {axis}: {size}" for (path, axis), size in sizes.items()]


def why_not(readers: Mapping[str, Kernel], channels: Mapping[str, tuple[int, ...]]) -> str:
    """Says why the consumers of some channels cannot have them in another order; '' if they can.

    Args:
        readers: as `consumers` gives them.
        channels: path -> axes.
    """
    for path, kernel in readers.items():
        (axis,) = set(channels[path]) & set(kernel.axes.inputs)
        if kernel.axes.inputs != (axis,):
            return (
                f"{path}: expected groups along axis {axis} alone, got inputs {kernel.axes.inputs}"
            )
    sizes = {path: kernel.m for path, kernel in readers.items()}
    return (
        f"channels: expected consumers of one M, got {sizes}"
        if len(set(sizes.values())) > 1
        else ""
    )


def _require_consumers(
    readers: Mapping[str, Kernel], channels: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses channels that no groups run along, or that groups cut in another way."""
    if not readers:
        raise InputError(
            "channels: expected a kernel with groups along its axis among them, got "
            f"{dict(channels)}"
        )
    reason = why_not(readers, channels)
    if reason:
        raise InputError(reason)

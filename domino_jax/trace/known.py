"""What more is known of an array of activations, dim by dim: choices and experts.

Most arrays that are computed from the inputs are just that. Some tell what a weight is that they
meet (`trace.choices`, `trace.experts`), so their dims are followed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domino_jax.trace.views import View

Experts = frozenset[tuple[View, int]]
Dims = tuple[Any, ...]  # what is known of each dim, something false where that is nothing
NONE: Experts = frozenset()


@dataclass(frozen=True)
class Known:
    """An array computed from the inputs, or from constants alone, of which more is known than that.

    Attributes:
        chooses: for each dim, whether it is zero but where two things that differ along this dim
            are equal (a one-hot, times anything); () where no dim is.
        experts: for each dim, the parameters (as views) and the axis of each along which their
            experts lie that this dim runs over; () where no dim does.
        constant: no input has a part in it: eye(E), whose rows are one-hots.
    """

    chooses: tuple[bool, ...]
    experts: tuple[Experts, ...] = ()
    constant: bool = False


def _broadcast(dims: Dims, p: Any, shape: tuple[int, ...]) -> Dims:
    result: list[Any] = [NONE] * len(p["shape"])
    for dim, target, size in zip(dims, p["broadcast_dimensions"], shape, strict=True):
        result[target] = dim if p["shape"][target] == size else NONE
    return tuple(result)


def _reshape(dims: Dims, p: Any, shape: tuple[int, ...]) -> Dims:
    """A dim is still there where one of its size has as many positions in front of it."""
    if p["dimensions"] is not None:
        return ()
    there = {(math.prod(shape[:d]), shape[d]): dim for d, dim in enumerate(dims) if dim}
    sizes = p["new_sizes"]
    return tuple(there.get((math.prod(sizes[:d]), size), NONE) for d, size in enumerate(sizes))


MOVES: Mapping[str, Callable[[Dims, Any, tuple[int, ...]], Dims]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": lambda dims, p, shape: tuple(dims[d] for d in p["permutation"]),
    "squeeze": lambda dims, p, shape: tuple(
        dim for d, dim in enumerate(dims) if d not in p["dimensions"]
    ),
}

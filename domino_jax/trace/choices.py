"""Weights that a one-hot picks, as an index would.

Letters: T tokens, E experts, D inputs, O outputs.

    te,edo->tdo    one_hot [T, E], w [E, D, O]     a matrix for each token, as w[index]

A one-hot is what a comparison of two things, that differ along a dim, leaves, and each row of a
diagonal matrix that is looked up: choices are followed from there. Whatever else sums over e mixes
the experts, and has them as its inputs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from domino_jax.trace import elementwise, views
from domino_jax.trace.known import MOVES, Known
from domino_jax.trace.views import View

Picked = tuple[View, ...] | None
LARGEST_EYE = 4096  # experts; larger constants are not read
KEEPS = elementwise.IDENTITY | elementwise.ZERO_AT_ZERO | {"div"}


def pick(eqn: Any, values: Sequence[Any]) -> Picked:
    """Returns the weights that a one-hot picks: a copy of one matrix for each token.

    It is written as a product, or as (one_hot * w).sum(e): then the first half of that. None where
    the equation is any other. What is left must be a matrix, as for a gather: one_hot @ table
    [V, D] is an ordinary product.
    """
    name = eqn.primitive.name
    if name == "reduce_sum":
        return _of_sum(values[0], eqn.params["axes"])
    sides = [bool(_choice(value)) for value in values]
    if name not in ("mul", "dot_general") or sides.count(True) != 1:
        return None
    side = sides.index(False)
    weights, choice = values[side], _choice(values[1 - side])
    if not isinstance(weights, tuple) or values[1 - side].constant:
        return None
    found = _in_mul if name == "mul" else _in_product
    return found(eqn, weights, choice, side)


def _in_mul(eqn: Any, weights: tuple[View, ...], choice: Sequence[bool], side: int) -> Picked:
    """Marks the dims of one_hot * w along which all but one index are zero."""
    del side
    shape = eqn.outvars[0].aval.shape
    if len(weights) > 1:
        return None
    copies = views.broadcast(weights[0], shape, range(len(shape)))
    along = frozenset(dim for dim, yes in zip(copies.dims, choice, strict=True) if dim and yes)
    is_several = along and len(views.axes_of(copies)) > 2
    return (replace(copies, varies=True, chosen=along),) if is_several else None


def _of_sum(weights: Any, axes: Sequence[int]) -> Picked:
    """Returns what is left of (one_hot * w).sum(e)."""
    if not isinstance(weights, tuple) or not len(weights) == len(axes) == 1:
        return None
    d = axes[0]
    return _one_of(weights, d) if weights[0].dims[d] in weights[0].chosen else None


def _in_product(eqn: Any, weights: tuple[View, ...], choice: Sequence[bool], side: int) -> Picked:
    contracting, batch = eqn.params["dimension_numbers"]
    if any(batch) or len(contracting[side]) != 1 or not choice[contracting[1 - side][0]]:
        return None
    one = _one_of(weights, *contracting[side])
    if one is None:
        return None
    # The free dims of the left operand come first in the result.
    shape, rank = eqn.outvars[0].aval.shape, len(one[0].dims)
    first = len(shape) - rank if side else 0
    return tuple(views.broadcast(view, shape, range(first, first + rank)) for view in one)


def _one_of(weights: tuple[View, ...], d: int) -> Picked:
    """Takes one index of a dim, no one knows which; None if no matrix is left."""
    if len(weights) > 1 and any(view.dims[d] for view in weights):
        return None  # joined otherwise than as a stack, along this dim, of one view each
    found = []
    for view in weights:
        sizes = [1 if number == d else size for number, size in enumerate(view.shape)]
        one = views.cut(view, [None if number == d else 0 for number in range(len(sizes))], sizes)
        if one is None or len(_axes(one)) < 2:
            return None
        found.append(replace(views.squeeze(one, [d]), varies=True, chosen=frozenset()))
    return tuple(found)


def _axes(view: View) -> set[int]:
    return {p.axis for dim in view.dims for p in dim if p.size > 1} - {-1}


def _choice(value: Any) -> tuple[bool, ...]:
    return value.chooses if isinstance(value, Known) else ()


def choice_of(eqn: Any, values: Sequence[Any]) -> tuple[bool, ...]:
    """Says along which dims a result is a choice; () where along none."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name == "eq":
        return tuple(size > 1 for size in shape)
    of = [_choice(value) for value in values]
    same = [c for c, a in zip(of, eqn.invars, strict=True) if c and a.aval.shape == shape]
    if name == "mul":
        return tuple(any(dim) for dim in zip(*same, strict=True))
    if name == "select_n":  # where(choice, anything, 0)
        return of[0] if same and values[1] == 0 else ()
    return _moved(eqn, of[0]) if of and of[0] else ()


def _moved(eqn: Any, choice: tuple[bool, ...]) -> tuple[bool, ...]:
    name = eqn.primitive.name
    if name in ("gather", "dynamic_slice"):
        return _looked_up(eqn, choice)
    if name == "reduce_sum":
        return tuple(dim for d, dim in enumerate(choice) if d not in eqn.params["axes"])
    if name in MOVES:
        moved = MOVES[name](choice, eqn.params, eqn.invars[0].aval.shape)
        return tuple(bool(dim) for dim in moved)
    return choice if name in KEEPS else ()


def _looked_up(eqn: Any, choice: tuple[bool, ...]) -> tuple[bool, ...]:
    """What is left of a row of a choice is one."""
    if eqn.primitive.name == "dynamic_slice":
        return choice
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [yes for d, yes in enumerate(choice) if d not in gone]
    places = dict(zip(numbers.offset_dims, kept, strict=True))
    return tuple(places.get(d, False) for d in range(len(eqn.outvars[0].aval.shape)))


def is_diagonal(array: Any) -> bool:
    """Says whether a constant of `apply` is a diagonal matrix, as `eye(E)` is: rows of one-hots."""
    shape = np.shape(array)
    if len(shape) != 2 or shape[0] != shape[1] or not 1 < shape[0] <= LARGEST_EYE:
        return False
    numbers = np.asarray(array)
    return bool(np.count_nonzero(numbers) == np.count_nonzero(np.diagonal(numbers)) == shape[0])

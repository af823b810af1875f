"""Experts that are all computed in one product, or picked by a one-hot.

Letters: T tokens, E experts, D inputs, O outputs.

A weight that is picked by an index needs nothing of this: its expert axis is a stack axis already.
These products have experts too, and only what comes before or after tells so:

    te,edo->tdo    one_hot [T, E], w [E, D, O]     picks a matrix for each token, as w[index] does
    td,edo->teo    x [T, D],       w [E, D, O]     heads of attention look the same; of experts,
                                                   the results are summed over e, or picked

So an array of activations may be `Known`: as a choice, or by the experts that its dims run over.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from domino_jax.trace import elementwise, views
from domino_jax.trace.products import Use
from domino_jax.trace.values import INPUT, Experts, Known, views_of
from domino_jax.trace.views import View

NONE: Experts = frozenset()
ELEMENTWISE = elementwise.IDENTITY | elementwise.ZERO_AT_ZERO | elementwise.OTHERS
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})


def plain(value: Any) -> Any:
    """Forgets what is known of an array of activations."""
    return INPUT if isinstance(value, Known) else value


def pick(eqn: Any, values: Sequence[Any]) -> tuple[View, ...] | None:
    """Returns the weights that a one-hot picks: a copy of one matrix for each token.

    It is written as a product, or as (one_hot * w).sum(e): then the first half of that. None where
    the equation is any other. What is left must be a matrix, as for a gather: one_hot @ table
    [V, D] is an ordinary product.
    """
    name, p = eqn.primitive.name, eqn.params
    if name == "reduce_sum":
        chosen = all(view.chosen for view in views_of(values)) and len(p["axes"]) == 1
        return _one_of(values[0], p["axes"][0]) if chosen and views_of(values) else None
    sides = [_chooses(value) for value in values]
    if name not in ("mul", "dot_general") or sides.count(True) != 1:
        return None
    shape = eqn.outvars[0].aval.shape
    side = sides.index(False)
    weights = values[side]
    if not isinstance(weights, tuple) or (name == "mul" and len(weights) > 1):
        return None
    if name == "mul":
        copies = views.broadcast(weights[0], shape, range(len(shape)))
        several = len(views.axes_of(copies)) > 2
        return (replace(copies, varies=True, chosen=True),) if several else None
    contracting, batch = p["dimension_numbers"]
    one = _one_of(weights, *contracting[side]) if len(contracting[side]) == 1 else None
    if one is None or any(batch):
        return None
    # The free dims of the left operand come first in the result.
    rank = len(one[0].dims)
    first = len(shape) - rank if side else 0
    return tuple(views.broadcast(view, shape, range(first, first + rank)) for view in one)


def _one_of(weights: tuple[View, ...], d: int) -> tuple[View, ...] | None:
    """Takes one index of a dim, no one knows which; None if no matrix is left."""
    if len(weights) > 1 and any(view.dims[d] for view in weights):
        return None  # joined otherwise than as a stack, along this dim, of one view each
    found = []
    for view in weights:
        sizes = [1 if number == d else size for number, size in enumerate(view.shape)]
        one = views.cut(view, [None if number == d else 0 for number in range(len(sizes))], sizes)
        if one is None or len(_axes(one, range(len(sizes)))) < 2:
            return None
        found.append(replace(views.squeeze(one, [d]), varies=True, chosen=False))
    return tuple(found)


def parts(eqn: Any, values: Sequence[Any]) -> list[Use]:
    """Lists the parameters whose axes turn out to be experts here.

    Where their dim is summed over alone, is picked from by an index that the inputs give, or meets
    weights of its own for each expert. In products of two activations a batch dim says nothing:
    those are the heads of attention.
    """
    name = eqn.primitive.name
    if name == "dot_general":
        found = [_in_product(eqn, values, side) for side in (0, 1)]
        return [use for uses in found for use in uses]
    if not values or not isinstance(values[0], Known) or not values[0].experts:
        return []
    dims: Sequence[int] = ()
    if name == "reduce_sum" and len(eqn.params["axes"]) == 1:
        dims = eqn.params["axes"]
    if name == "gather" and plain(values[1]) is INPUT:
        numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        dims = [d for d in numbers.start_index_map if sizes[d] == 1]
    if name == "dynamic_slice":
        starts = enumerate(zip(values[1:], eqn.params["slice_sizes"], strict=True))
        dims = [d for d, (start, size) in starts if size == 1 and plain(start) is INPUT]
    return [use for d in dims for use in _apart(values[0].experts[d])]


def _in_product(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    contracting, batch = eqn.params["dimension_numbers"]
    value, other = values[side], values[1 - side]
    if not isinstance(value, Known) or not value.experts:
        return []
    weights = views_of([other])
    alone = list(contracting[side]) if len(contracting[side]) == 1 else []
    meets = [*batch[side], *contracting[side]] if weights else alone
    found = [use for d in meets for use in _apart(value.experts[d])]
    if not alone:  # h [T, E, F], v [E, F, O] -> [T, O]: the sum over the experts' results
        pairs = zip(contracting[side], contracting[1 - side], strict=True)
        summed = [mine for d, mine in pairs if value.experts[d]]
        found += [Use(v, apart=frozenset(_axes(v, [d]))) for v in weights for d in summed]
    return found


def _apart(experts: Experts) -> list[Use]:
    return [Use(view, apart=frozenset({axis})) for view, axis in experts]


def know(eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
    """Says what is known of the results that are computed from the inputs."""
    if len(results) != 1 or results[0] is not INPUT:
        return results
    shape = eqn.outvars[0].aval.shape
    experts = _experts(eqn, values)
    if math.prod(shape) < 2 or not any(experts):
        experts = ()
    chooses = _keeps_choice(eqn, values)
    return [Known(chooses, experts) if chooses or experts else INPUT]


def _chooses(value: Any) -> bool:
    return isinstance(value, Known) and value.chooses


def _keeps_choice(eqn: Any, values: Sequence[Any]) -> bool:
    """Says whether a result is zero but where two things are equal: a one-hot, times anything."""
    name = eqn.primitive.name
    if name == "eq" or (name == "mul" and any(map(_chooses, values))):
        return True
    if name == "select_n":  # where(choice, anything, 0)
        return _chooses(values[0]) and values[1] == 0
    followed = name in MOVES or name in elementwise.IDENTITY | elementwise.ZERO_AT_ZERO
    return (followed or name in ("div", "reduce_sum")) and _chooses(values[0])


def _experts(eqn: Any, values: Sequence[Any]) -> tuple[Experts, ...]:
    """Returns the experts of each dim of the result, () where there are none."""
    name, p, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    if name == "dot_general":
        return _of_product(eqn, values)
    of = [value.experts if isinstance(value, Known) else () for value in values]
    if name in ELEMENTWISE:
        same = [e for e, a in zip(of, eqn.invars, strict=True) if e and a.aval.shape == shape]
        return tuple(NONE.union(*dim) for dim in zip(*same, strict=True))
    if not of or not of[0]:
        return ()
    if name in REDUCTIONS:
        return tuple(dim for d, dim in enumerate(of[0]) if d not in p["axes"])
    return MOVES[name](of[0], p, eqn.invars[0].aval.shape) if name in MOVES else ()


def _of_product(eqn: Any, values: Sequence[Any]) -> tuple[Experts, ...]:
    """A product with weights keeps the experts of its activations, and may add its own.

    A product of activations that sums over something ends them: attention does.
    """
    contracting, batch = eqn.params["dimension_numbers"]
    if not views_of(values) and any(contracting):
        return ()
    of: list[list[Experts]] = []
    for side, value in enumerate(values):
        rank = len(eqn.invars[side].aval.shape)
        known = value.experts if isinstance(value, Known) else ()
        dims = list(known or [NONE] * rank)
        if isinstance(value, tuple) and len(value) == 1:
            dims = _own(value[0], contracting[side], batch[side])
        of.append(dims)
    both = zip(*([of[side][d] for d in batch[side]] for side in (0, 1)), strict=True)
    free = [
        dim
        for side in (0, 1)
        for d, dim in enumerate(of[side])
        if d not in (*contracting[side], *batch[side])
    ]
    return (*(left | right for left, right in both), *free)


def _own(view: View, contracting: Sequence[int], batch: Sequence[int]) -> list[Experts]:
    """Marks the dim that may be experts: the first axis, where it and another are outputs.

    So are they stored, [E, D, O]. Without this a sum over the width of heads (a norm of queries)
    would make experts of [H, D, K]'s last axis.
    """
    free = [d for d in range(len(view.dims)) if d not in (*contracting, *batch)]
    inputs, outputs = (_axes(view, dims) for dims in (contracting, free))
    dims = [NONE] * len(view.dims)
    if inputs and len(outputs) > 1 and not views.is_repeated(view):
        first = min(inputs | outputs)
        for d in free:
            if _axes(view, [d]) == {first}:
                dims[d] = frozenset({(view, first)})
    return dims


def _axes(view: View, dims: Sequence[int]) -> set[int]:
    return {piece.axis for d in dims for piece in view.dims[d] if piece.size > 1} - {-1}


def _broadcast(dims: tuple[Experts, ...], p: Any, shape: tuple[int, ...]) -> tuple[Experts, ...]:
    result = [NONE] * len(p["shape"])
    for dim, target, size in zip(dims, p["broadcast_dimensions"], shape, strict=True):
        result[target] = dim if p["shape"][target] == size else NONE
    return tuple(result)


def _reshape(dims: tuple[Experts, ...], p: Any, shape: tuple[int, ...]) -> tuple[Experts, ...]:
    """A dim is still there where one of its size has as many positions in front of it."""
    if p["dimensions"] is not None:
        return ()
    there = {(math.prod(shape[:d]), shape[d]): dim for d, dim in enumerate(dims) if dim}
    sizes = p["new_sizes"]
    return tuple(there.get((math.prod(sizes[:d]), size), NONE) for d, size in enumerate(sizes))


MOVES: Mapping[str, Callable[[tuple[Experts, ...], Any, tuple[int, ...]], tuple[Experts, ...]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": lambda dims, p, shape: tuple(dims[d] for d in p["permutation"]),
    "squeeze": lambda dims, p, shape: tuple(
        dim for d, dim in enumerate(dims) if d not in p["dimensions"]
    ),
}

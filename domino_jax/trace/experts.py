"""Experts that are all computed in one product: their axis is a stack axis, as where one is picked.

Letters: T tokens, E experts, D inputs, F hidden features, O outputs.

    td,edo->teo    x [T, D], w [E, D, O]     every token with each expert

Heads of attention look the same. What comes after tells: results of experts are summed over e, or
picked from, or meet weights of their own for each e. So the dims of activations are followed, and
where that happens a `Use` says along which axis the parameter falls apart.
"""

from collections.abc import Sequence
from typing import Any

from domino_jax.trace import choices, elementwise, views
from domino_jax.trace.known import MOVES, NONE, Experts, Known
from domino_jax.trace.products import Use
from domino_jax.trace.values import INPUT, plain, views_of
from domino_jax.trace.views import View

ELEMENTWISE = elementwise.IDENTITY | elementwise.ZERO_AT_ZERO | elementwise.OTHERS
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})


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
    shape = eqn.invars[1 - side].aval.shape
    taken = (*contracting[1 - side], *batch[1 - side])
    outputs = [d for d, size in enumerate(shape) if d not in taken and size > 1]
    # A kernel has outputs; learned queries of each head, [H, K], have none. And a sum that weighs
    # experts has one number for each: x [T, D] with a kernel made of kernels, [D, O], is a product.
    weights = views_of([other]) if outputs else []
    alone = list(contracting[side]) if len(contracting[side]) == 1 else []
    weighs = [] if outputs or views_of([other]) else alone
    meets = [*batch[side], *contracting[side]] if weights else weighs
    found = [use for d in meets for use in _apart(value.experts[d])]
    if not alone:  # h [T, E, F], v [E, F, O] -> [T, O]: the sum over the experts' results
        pairs = zip(contracting[side], contracting[1 - side], strict=True)
        summed = [mine for d, mine in pairs if value.experts[d]]
        found += [Use(v, apart=frozenset(_axes(v, [d]))) for v in weights for d in summed]
    return found


def _apart(experts: Experts) -> list[Use]:
    return [Use(view, apart=frozenset({axis})) for view, axis in experts]


def know(eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
    """Says what is known of a result that is computed from the inputs, or from constants alone."""
    if len(results) != 1 or results[0] not in (INPUT, frozenset()):
        return results
    experts, choice = _experts(eqn, values), choices.choice_of(eqn, values)
    if not any(experts) and not any(choice):
        return results
    return [
        Known(
            choice if any(choice) else (),
            experts if any(experts) else (),
            constant=results[0] is not INPUT,
        )
    ]


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
    """Marks the dim that may be experts: the first of several axes that are outputs.

    So are they stored, [E, D, O] or [D, E, O]. A sum over the width of heads (a norm of queries)
    must not make experts of the last axis of [H, D, K].
    """
    free = [d for d in range(len(view.dims)) if d not in (*contracting, *batch)]
    inputs, outputs = (_axes(view, dims) for dims in (contracting, free))
    dims = [NONE] * len(view.dims)
    if inputs and len(outputs) > 1 and not views.is_repeated(view):
        first = min(outputs)
        for d in free:
            if _axes(view, [d]) == {first}:
                dims[d] = frozenset({(view, first)})
    return dims


def _axes(view: View, dims: Sequence[int]) -> set[int]:
    return {piece.axis for d in dims for piece in view.dims[d] if piece.size > 1} - {-1}

"""Follows the parameters of a network to the products they go into.

A value of this walk is one of four:
- a tuple of `View`: an array that still holds weights (several views where they were concatenated);
- a number: a constant scalar, or an array filled with it;
- `INPUT`: computed from the inputs;
- a frozenset of paths: computed from these parameters and constants, but no weight any more.

The facts are `Use` (of a parameter) and `Unweighted` (products without one). So every product is
counted exactly once: as that of a weight, or as one of activations.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.trace import elementwise, moves, products, views
from domino_jax.trace.example import Apply, arrays_by_path, is_array, one_example
from domino_jax.trace.products import PRODUCTS, Unweighted, Use
from domino_jax.trace.views import View
from domino_jax.trace.walk import Facts, Interpreter, Value, walk

INPUT = "computed from the inputs"
CLOSED_OVER = "closed over: "  # in front of the name of a constant, which is no path
Outcome = tuple[list[Value], Facts]


def find_products(
    apply: Apply, params: Any, inputs: Any, batched: Any = True
) -> tuple[list[Use], list[Unweighted]]:
    """Lists what happens to the parameters, in the order of the trace, and the other products.

    First every use of the floating parameters of rank >= 2; after them the products that
    parameters of rank 1 go into, as views of another shape do.

    Args:
        apply: `apply(params, inputs)`; it is traced, not run.
        params: pytree of arrays or ShapeDtypeStructs; other leaves are passed on as they are.
        inputs: pytree of arrays or ShapeDtypeStructs.
        batched: as for `find_kernels`.
    """
    jaxpr, of_params = one_example(apply, params, inputs, batched)
    arrays = arrays_by_path(params)
    examples = [INPUT] * (len(jaxpr.jaxpr.invars) - of_params)

    def follow(wanted: Callable[[int], bool]) -> Outcome:
        values = [
            (views.whole(path, leaf.shape),)
            if jnp.issubdtype(leaf.dtype, jnp.floating) and wanted(len(leaf.shape))
            else frozenset({path})
            for path, leaf in arrays.items()
        ]
        return walk(jaxpr, [*values, *examples], WEIGHTS)

    results, facts = follow(lambda rank: rank > 1)
    # Apart: a vector is mostly a bias or a scale, which must not come between the others' views.
    _, of_vectors = follow(lambda rank: rank == 1)
    uses = [fact for fact in facts if isinstance(fact, Use)] + _notes(results, "returned")
    # After a trouble a vector is what it mostly is: no kernel.
    uses += [
        use
        for use in of_vectors
        if isinstance(use, Use) and use.roles and not use.view.reason and not use.weak
    ]
    return uses, [fact for fact in facts if isinstance(fact, Unweighted)]


def find_uses(apply: Apply, params: Any, inputs: Any, batched: Any = True) -> list[Use]:
    """Lists what happens to the parameters; see `find_products`."""
    return find_products(apply, params, inputs, batched)[0]


def _constant(value: Any) -> Value:
    """Numbers are folded; a float matrix may turn out to be a weight that is not in params."""
    is_key = is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.extended)
    if is_key:
        return frozenset()
    if np.ndim(value) == 0:
        return np.asarray(value).item()
    floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
    if np.ndim(value) < 2 or not floating:
        return frozenset()
    sizes = "x".join(map(str, np.shape(value)))
    return frozenset({f"{CLOSED_OVER}{jnp.result_type(value)}[{sizes}]"})


def _step(eqn: Any, values: list[Value]) -> Outcome:
    name = eqn.primitive.name
    if any(isinstance(value, tuple) for value in values):
        if any(jnp.issubdtype(_dtype(var), jnp.complexfloating) for var in eqn.outvars):
            # A complex weight is zero where both its parts are: one mask of two parameters.
            return _end(eqn, values, _reasons(values, "part of a complex weight"))
        return _HANDLERS.get(name, _lose)(eqn, values)
    folded = elementwise.fold(name, values)
    if folded is not None:
        return [folded], []
    return _end(eqn, values, _unweighted(eqn, values) if name in PRODUCTS else [])


def _dtype(var: Any) -> Any:
    return getattr(var.aval, "dtype", np.dtype(bool))  # tokens and the like have none


def _unweighted(eqn: Any, values: Sequence[Value]) -> Facts:
    """Names a product of two activations, or one with a constant that nothing else was put into."""
    if values[0] is INPUT and values[1] is INPUT:
        return [Unweighted(Fraction(products.count(eqn)))]
    if INPUT not in values[:2]:
        return []
    constant = values[1] if values[0] is INPUT else values[0]
    if not isinstance(constant, frozenset) or len(constant) != 1:
        return []
    (name,) = constant
    shape = eqn.invars[1 if values[0] is INPUT else 0].aval.shape
    return [Unweighted(Fraction(0), name, shape)] if name.startswith(CLOSED_OVER) else []


def _views(values: Iterable[Value]) -> list[View]:
    return [view for value in values if isinstance(value, tuple) for view in value]


def _rest(values: Iterable[Value]) -> Value:
    """What is computed from these values, when no weights can be seen in it any more."""
    values = list(values)
    if INPUT in values or any(view.varies for view in _views(values)):
        return INPUT
    made = [value for value in values if isinstance(value, frozenset)]
    return frozenset().union({view.path for view in _views(values)}, *made)


def _end(eqn: Any, values: Sequence[Value], facts: Facts) -> Outcome:
    return [_rest(values)] * len(eqn.outvars), facts


def _reasons(values: Iterable[Value], reason: str) -> list[Use]:
    """Keeps the parameters dense; rows looked up in a table are activations from there on."""
    return [
        Use(view, note="looked up")
        if view.varies and views.is_repeated(view)
        else Use(view, reason=view.reason or reason)
        for view in _views(values)
    ]


def _notes(values: Iterable[Value], note: str) -> list[Use]:
    return [
        Use(view, note="looked up" if view.varies and views.is_repeated(view) else note)
        for view in _views(values)
    ]


def _lose(eqn: Any, values: list[Value]) -> Outcome:
    return _end(eqn, values, _reasons(values, f"goes into {eqn.primitive.name}"))


def _measure(eqn: Any, values: list[Value]) -> Outcome:
    return _end(eqn, values, _notes(values, f"in {eqn.primitive.name}"))


def _pass(eqn: Any, values: list[Value]) -> Outcome:
    return values[: len(eqn.outvars)], []


def _move(eqn: Any, values: list[Value]) -> Outcome:
    moved = moves.TABLE[eqn.primitive.name](eqn, values)
    if moved is None:
        return _lose(eqn, values)
    if not moved:
        return _end(eqn, values, _notes(values, "looked up"))
    if INPUT in values[1:]:  # the index
        moved = [tuple(replace(view, varies=True) for view in value) for value in moved]
    return list(moved), []


def _elementwise(eqn: Any, values: list[Value]) -> Outcome:
    """Zero weights must stay zero; where they do not, the parameter is followed but not sparse.

    It is followed still because its products cost what they cost: `x @ (w - mean(w))` has the MACs
    of w. That holds for kernels only. A bias or a scale meets arrays that others made; followed
    on, it would be taken for a kernel at the next product (of a learned query, say).

        w [8, 6] * g [1, 6]                 weight normalization: w is the kernel, g its scale
        w [8, 6] * x [8, 1]                 modulation: w is the kernel, other for each example
        x [9, 8] * g [1, 8]                 g is the scale of a norm
        (q @ w) [1, 6] + b [6]              b is a bias: whatever comes of it is no b
        w [8, 6] + (a @ b) [8, 6]           LoRA: w is the kernel, never sparse in this form
    """
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name == "select_n" and all(value == values[1] for value in values[1:]):
        return values[1:2], []  # vmap writes a switch so: the same weights, whatever is chosen
    values = [_spread(value, shape) for value in values]
    main, *others = sorted({v: None for v in values if isinstance(v, tuple)}, key=_doubt)
    same = [value for value in others if _doubt(value) == _doubt(main)]
    if same:
        return _end(eqn, values, _reasons(values, f"goes into {name} with another parameter"))
    keeps = elementwise.keeps_zeros(name, eqn.params, values, main)
    made = _others_of(main, values)
    if _is_lost(eqn, values, main, keeps, made):
        return _lose(eqn, values)
    facts = _scales(main, others) if keeps else _reasons(others, f"goes into {name}")
    if not keeps:
        reason = f"goes into {name}" + (f" with {_listed(made)}" if made else "")
        main = tuple(replace(view, reason=view.reason or reason) for view in main)
    if INPUT in values:
        main = tuple(replace(view, varies=True) for view in main)
    return [main], facts


def _spread(value: Value, shape: Sequence[int]) -> Value:
    """Repeats weights along dims of size 1 as elementwise primitives do."""
    if not isinstance(value, tuple) or len(value) > 1 or len(value[0].dims) != len(shape):
        return value
    return (views.broadcast(value[0], shape, range(len(shape))),)


def _is_lost(
    eqn: Any, values: Sequence[Value], main: tuple[View, ...], keeps: bool, made: frozenset[str]
) -> bool:
    """Tells whether what comes out of an elementwise primitive is no kernel any more."""
    shape = eqn.outvars[0].aval.shape
    if eqn.invars[values.index(main)].aval.shape != shape and (
        len(main) > 1 or main[0].shape != shape
    ):
        return True
    no_kernel = any(_is_no_kernel(view, keeps) for view in main)
    sizes = [a.aval.size for a, v in zip(eqn.invars, values, strict=True) if v is INPUT]
    large = [size for size in sizes if size > 1]
    # An activation as large as the array is what is weighted here, not what weights.
    if large and (not keeps or no_kernel or max(large) >= math.prod(shape)):
        return True
    return bool(made) and no_kernel


def _doubt(value: tuple[View, ...]) -> tuple[bool, bool]:
    """Of several arrays the kernel is the one that is whole and not repeated."""
    return _in_doubt(value), any(views.is_repeated(view) for view in value)


def _in_doubt(value: tuple[View, ...]) -> bool:
    return all(view.reason for view in value)


def _others_of(main: tuple[View, ...], values: Sequence[Value]) -> frozenset[str]:
    """Lists the parameters, besides those of `main`, that the other operands are computed from."""
    made = _rest([value for value in values if value != main and value is not INPUT])
    return frozenset() if made is INPUT else made - {view.path for view in main}


def _is_no_kernel(view: View, keeps: bool) -> bool:
    """Tells a bias or a scale by its form: a vector, or repeated; a bias also by added dims."""
    vector = len(view.leaf) == 1 and views.matrix_rank(view) < 2
    return vector or views.is_repeated(view) or (not keeps and () in view.dims)


def _scales(main: tuple[View, ...], others: Sequence[tuple[View, ...]]) -> list[Use]:
    """What multiplies a kernel, such as the g of g·v/|v|: it keeps its zeros where they are."""
    name = _listed({view.path for view in main})
    return [
        Use(view, reason=view.reason) if view.reason else Use(view, note=f"scales {name}")
        for view in _views(others)
    ]


def _listed(paths: Iterable[str]) -> str:
    first, *more = sorted(paths)
    return first + (f", {more[0]}" if more else "") + (", …" if len(more) > 1 else "")


def _product(eqn: Any, values: list[Value]) -> Outcome:
    """The weight of a product of two parameters is the one that is whole, if only one is."""
    sides = [side for side, value in enumerate(values) if isinstance(value, tuple)]
    wholes = [side for side in sides if not _in_doubt(values[side])] or sides
    # What varies meets the weight as an activation does: rows that were looked up.
    wholes = [side for side in wholes if not all(v.varies for v in values[side])] or wholes
    # A learned query of one token meets a matrix as an activation does.
    wholes = [s for s in wholes if any(views.matrix_rank(v) > 1 for v in values[s])] or wholes
    if len(wholes) > 1:
        return _end(eqn, values, _reasons(values, "multiplied with another parameter"))
    (side,) = wholes
    others = [values[i] for i in sides if i != side]
    weak = _rest(value for i, value in enumerate(values) if i != side) is not INPUT
    uses = [replace(use, weak=weak) for use in PRODUCTS[eqn.primitive.name](eqn, values, side)]
    # A parameter that is no whole kernel any more counts only where it is used as a matrix.
    uses = [
        Use(use.view, reason=use.reason) if use.reason and not _is_matrix(eqn, use, side) else use
        for use in uses
    ]
    return _end(eqn, values, uses + _reasons(others, "multiplied with another parameter"))


def _is_matrix(eqn: Any, use: Use, side: int) -> bool:
    """Says whether a product keeps a dim of the weight apart from batch dims and sums over one."""
    if eqn.primitive.name != "dot_general" or not use.view.reason:
        return True
    contracting, batch = eqn.params["dimension_numbers"]
    free = set(range(len(use.view.dims))) - {*contracting[side], *batch[side]}
    return any(views.size_of(use.view.dims[d]) > 1 for d in free)


def _join(values: Sequence[Value], by: Value, place: str) -> tuple[Value, Facts]:
    """The same weights, or the same number, stay what they are; all else is lost."""
    if all(value == values[0] for value in values) and isinstance(values[0], tuple | int | float):
        return values[0], []
    chosen = [] if by is None else [by]
    if all(value == values[0] for value in values) and not chosen:
        return values[0], []
    return _rest([*values, *chosen]), _reasons(values, f"goes out of {place}")


def _row(value: Value) -> Value:
    if not isinstance(value, tuple):
        return value
    return tuple(views.run_over(view) for view in value)


def _rows(value: Value, place: str) -> tuple[Value, Facts]:
    return (_rest([value]) if isinstance(value, tuple) else value), _reasons(
        [value], f"goes out of {place}"
    )


def _repeat(facts: Facts, times: int | None) -> Facts:
    """A constant is used at each pass, each row of an array at one of them."""
    if times is not None:
        return [replace(fact, macs=fact.macs * times) for fact in facts]
    # The MACs are those of one pass, and no budget can be met with a number that may be wrong.
    return [
        replace(fact, reason=fact.reason or "in a while loop")
        if isinstance(fact, Use) and fact.roles
        else fact
        for fact in facts
    ]


def _either(branches: Sequence[Facts]) -> Facts:
    """Branches cost what the dearest of them costs, shared out among the weights of all.

    Each weight has its cost where it costs most. A weight that every branch uses keeps it; of three
    experts, one a branch, each keeps a third: one token goes to one expert, whether it is chosen
    by `lax.switch` or picked out of a stack.
    """
    costs = [_cost_by_place(facts) for facts in branches]
    dearest_of = {
        place: max(range(len(costs)), key=lambda number: costs[number].get(place, Fraction(0)))
        for cost in costs
        for place in cost
    }
    separate = sum((costs[number][place] for place, number in dearest_of.items()), Fraction(0))
    whole = max(sum(cost.values(), Fraction(0)) for cost in costs)
    share = whole / separate if separate else Fraction(1)
    return [
        replace(fact, macs=fact.macs * share * (dearest_of[_place(fact)] == number))
        for number, facts in enumerate(branches)
        for fact in facts
    ]


def _cost_by_place(facts: Facts) -> dict[Any, Fraction]:
    """Adds up what the products of each weight cost; those of activations are one place."""
    cost: dict[Any, Fraction] = {}
    for fact in facts:
        cost[_place(fact)] = cost.get(_place(fact), Fraction(0)) + fact.macs
    return cost


def _place(fact: Use | Unweighted) -> Any:
    if isinstance(fact, Unweighted):
        return None
    return fact.view.path, fact.view.offset, fact.view.stack


_HANDLERS: Mapping[str, Callable[[Any, list[Value]], Outcome]] = {
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(moves.TABLE, _move),
    **dict.fromkeys(elementwise.MEASURES, _measure),
    **dict.fromkeys(elementwise.IDENTITY, _pass),
    **dict.fromkeys(elementwise.ZERO_AT_ZERO | elementwise.OTHERS, _elementwise),
}

WEIGHTS = Interpreter(_constant, _step, _join, _row, _rows, _repeat, _either)

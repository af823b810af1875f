"""Follows the parameters of a network to the products they go into.

The facts are `Use` (of a parameter) and `Unweighted` (products without one). So every product is
counted exactly once: as that of a weight, or as one of activations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.trace import choices, elementwise, experts, moves, products, views
from domino_jax.trace.branches import either
from domino_jax.trace.combine import combine, in_doubt
from domino_jax.trace.example import Apply, arrays_by_path, is_array, one_example
from domino_jax.trace.known import Known
from domino_jax.trace.products import PRODUCTS, Loop, Unweighted, Use
from domino_jax.trace.values import INPUT, Outcome, end, notes, plain, reasons, rest
from domino_jax.trace.walk import Facts, Interpreter, Value, walk

CLOSED_OVER = "closed over: "  # in front of the name of a constant, which is no path


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

    def follow(has_rank: Callable[[int], bool]) -> Outcome:
        values = [
            (views.whole(path, leaf.shape),)
            if jnp.issubdtype(leaf.dtype, jnp.floating) and has_rank(len(leaf.shape))
            else frozenset({path})
            for path, leaf in arrays.items()
        ]
        return walk(jaxpr, [*values, *examples], WEIGHTS)

    results, facts = follow(lambda rank: rank > 1)
    # Two walks. A vector is mostly a bias or a scale, which must not come between the others' views
    # (w + b would be two parameters in one array); and which is seldom a kernel at all.
    _, of_vectors = follow(lambda rank: rank == 1)
    uses = [fact for fact in facts if isinstance(fact, Use)] + notes(results, "returned")
    # So of the second walk only what is surely a kernel counts: a vector that goes into a product
    # with activations (a flat parameter reshaped, a last layer of one output), with nothing added
    # or multiplied on the way.
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
    # Masks, positions and tables of indices are constants too: a kernel is a float matrix.
    floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
    if np.ndim(value) < 2 or not floating:
        return frozenset()
    if choices.is_diagonal(value):
        return Known((True, True), constant=True)
    sizes = "x".join(map(str, np.shape(value)))
    return frozenset({f"{CLOSED_OVER}{jnp.result_type(value)}[{sizes}]"})


def _step(eqn: Any, values: list[Value]) -> Outcome:
    picked = choices.pick(eqn, values)
    if picked is not None:
        return [picked], []
    results, facts = _follow(eqn, [plain(value) for value in values])
    return experts.know(eqn, values, results), [*facts, *experts.parts(eqn, values)]


def _follow(eqn: Any, values: list[Value]) -> Outcome:
    name = eqn.primitive.name
    if any(isinstance(value, tuple) for value in values):
        if any(jnp.issubdtype(_dtype(var), jnp.complexfloating) for var in eqn.outvars):
            # A complex weight is zero where both its parts are: one mask of two parameters.
            return end(eqn, values, reasons(values, "part of a complex weight"))
        return _HANDLERS.get(name, _lose)(eqn, values)
    # Indices into stacks and bounds of clips are computed from literals: w[i + 1], max(w, 2 * 0).
    folded = elementwise.fold(name, values)
    if folded is not None:
        return [folded], []
    return end(eqn, values, _unweighted(eqn, values) if name in PRODUCTS else [])


def _dtype(var: Any) -> Any:
    return getattr(var.aval, "dtype", np.dtype(bool))  # tokens and the like have none


def _unweighted(eqn: Any, values: Sequence[Value]) -> Facts:
    """Counts a product of two activations, or names the constant that meets one in a product."""
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


def _lose(eqn: Any, values: list[Value]) -> Outcome:
    """Nothing is known of such an operation; a result of the kernel's form costs what it costs.

    w.at[0].set(0)   cumsum(w)   qr(w)[0]        w stays dense, and its products count
    """
    reason = f"goes into {eqn.primitive.name}"
    shapes = [var.aval.shape for var in eqn.outvars if hasattr(var.aval, "shape")]
    kernels = [v for v in values if _may_be_kernel(v) and v[0].shape in shapes]
    # Solvers take a matrix and its factors: two forms of one parameter.
    if len({kernel[0].path for kernel in kernels}) != 1 or INPUT in values:
        return end(eqn, values, reasons(values, reason))
    form = kernels[0][0].shape
    dense = tuple(replace(view, reason=view.reason or reason) for view in kernels[0])
    others = reasons([value for value in values if value not in kernels], reason)
    left = rest(values)
    return [dense if getattr(v.aval, "shape", ()) == form else left for v in eqn.outvars], others


def _may_be_kernel(value: Value) -> bool:
    return isinstance(value, tuple) and len(value) == 1 and views.matrix_rank(value[0]) > 1


def _measure(eqn: Any, values: list[Value]) -> Outcome:
    return end(eqn, values, notes(values, f"in {eqn.primitive.name}"))


def _svd(eqn: Any, values: list[Value]) -> Outcome:
    """Singular values alone measure: w / norm(w, 2)."""
    return _lose(eqn, values) if eqn.params["compute_uv"] else _measure(eqn, values)


def _pass(eqn: Any, values: list[Value]) -> Outcome:
    return values[: len(eqn.outvars)], []


def _move(eqn: Any, values: list[Value]) -> Outcome:
    moved = moves.TABLE[eqn.primitive.name](eqn, values)
    if moved is None:  # it is somewhere in the result, but in no form that a view can describe
        return _lose(eqn, values)
    if not moved:
        return end(eqn, values, notes(values, "looked up"))
    if INPUT in values[1:]:  # the index
        moved = [tuple(replace(view, varies=True) for view in value) for value in moved]
    return list(moved), []


def _product(eqn: Any, values: list[Value]) -> Outcome:
    """Of two parameters in one product, the weight is the whole one; two whole ones stay dense."""
    sides = [side for side, value in enumerate(values) if isinstance(value, tuple)]
    wholes = [side for side in sides if not in_doubt(values[side])] or sides
    # What varies meets the weight as an activation does: rows that were looked up.
    wholes = [side for side in wholes if not all(v.varies for v in values[side])] or wholes
    # A learned query of one token meets a matrix as an activation does.
    wholes = [s for s in wholes if any(views.matrix_rank(v) > 1 for v in values[s])] or wholes
    if len(wholes) > 1:
        return end(eqn, values, reasons(values, "multiplied with another parameter"))
    (side,) = wholes
    others = [values[i] for i in sides if i != side]
    # Spectral normalization multiplies w with a vector of its own, only to measure it.
    weak = rest(value for i, value in enumerate(values) if i != side) is not INPUT
    if weak and any(view.picked for view in values[side]):
        return end(eqn, values, reasons(values, ""))  # learned queries of a table, no kernel
    uses = [replace(use, weak=weak) for use in PRODUCTS[eqn.primitive.name](eqn, values, side)]
    # A parameter that is no whole kernel any more counts only where it is used as a matrix.
    uses = [
        Use(use.view, reason=use.reason) if use.reason and not _is_matrix(eqn, use, side) else use
        for use in uses
    ]
    return end(eqn, values, uses + reasons(others, "multiplied with another parameter"))


def _is_matrix(eqn: Any, use: Use, side: int) -> bool:
    """Says whether a product keeps a dim of the weight beside batch dims: its outputs.

    A bias of two axes in the queries of attention, [heads, width], has none: heads are a batch dim
    and width is summed over.
    """
    if eqn.primitive.name != "dot_general" or not use.view.reason:
        return True
    contracting, batch = eqn.params["dimension_numbers"]
    free = set(range(len(use.view.dims))) - {*contracting[side], *batch[side]}
    return any(views.size_of(use.view.dims[d]) > 1 for d in free)


def _join(values: Sequence[Value], by: Value, place: str) -> tuple[Value, Facts]:
    """The same weights, or the same number, stay what they are; all else is lost."""
    if all(value == values[0] for value in values) and isinstance(values[0], tuple | int | float):
        return values[0], []
    # What the inputs choose depends on them, even if it is computed from constants in each branch.
    chosen = [] if by is None else [by]
    if all(value == values[0] for value in values) and not chosen:
        return values[0], []
    # A carry that is w before and w.T after a pass is neither; a result that is one of two weights
    # could be pruned only where both are.
    return rest([*values, *chosen]), reasons(values, f"goes out of {place}")


def _row(value: Value) -> Value:
    """A scan runs over the leading dim: that is a stack of layers."""
    if not isinstance(value, tuple):
        return plain(value)
    return tuple(views.run_over(view) for view in value)


def _rows(value: Value, place: str) -> tuple[Value, Facts]:
    """Weights that a scan gathers from its passes are followed no further."""
    return (rest([value]) if isinstance(value, tuple) else plain(value)), reasons(
        [value], f"goes out of {place}"
    )


def _repeat(facts: Facts, times: int | None, backwards: bool) -> Facts:
    """A constant is used at each pass, each row of an array at one of them."""
    if times is not None:
        scan = Loop(backwards)
        return [
            replace(fact, macs=fact.macs * times, loops=(scan, *fact.loops))
            if isinstance(fact, Use)
            else replace(fact, macs=fact.macs * times)
            for fact in facts
        ]
    # The MACs are those of one pass, and no budget can be met with a number that may be wrong.
    return [
        replace(fact, reason=fact.reason or "in a while loop")
        if isinstance(fact, Use) and fact.roles
        else fact
        for fact in facts
    ]


_HANDLERS: Mapping[str, Callable[[Any, list[Value]], Outcome]] = {
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(moves.TABLE, _move),
    **dict.fromkeys(elementwise.MEASURES, _measure),
    "svd": _svd,
    **dict.fromkeys(elementwise.IDENTITY, _pass),
    **dict.fromkeys(elementwise.ZERO_AT_ZERO | elementwise.OTHERS, combine),
}

WEIGHTS = Interpreter(_constant, _step, _join, _row, _rows, _repeat, either)

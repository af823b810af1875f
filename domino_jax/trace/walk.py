"""Follows the parameters of a model through its jaxpr to the products they go into.

A value of the walk is a tuple of `View` (an array that holds weights; several views where they were
concatenated), a Python number (a constant), `INPUT` (computed from the inputs) or None (computed
from constants and parameters only). Nothing is executed.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from domino_jax.core.errors import InputError
from domino_jax.core.paths import path_of
from domino_jax.trace import elementwise, moves, products, views
from domino_jax.trace.products import Use
from domino_jax.trace.views import View

INPUT = "computed from the inputs"
Value = Any
Outcome = tuple[list[Value], list[Use]]


def arrays_by_path(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists shape and dtype of every array leaf by path; leaves that are no arrays are left out.

    Raises:
        InputError: two leaves have the same path.
    """
    found: dict[str, jax.ShapeDtypeStruct] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = path_of(keys)
        if path in found:
            raise InputError(f"two parameters have the path {path!r}; rename one of them")
        if _is_array(leaf):
            found[path] = _struct(leaf)
    return found


def find_uses(apply: Callable[[Any, Any], Any], params: Any, inputs: Any) -> list[Use]:
    """Lists every use of every floating parameter of rank >= 2, in the order of the trace.

    After them the products that parameters of rank 1 go into, as views of another shape do.

    Args:
        apply: `apply(params, inputs)`; it is traced, not run.
        params: pytree of arrays or ShapeDtypeStructs; other leaves are passed on as they are.
        inputs: pytree of arrays or ShapeDtypeStructs with a leading batch axis, replaced by 1.
    """
    jaxpr, number = one_example(apply, params, inputs)
    floating = {
        path: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else None
        for path, leaf in arrays_by_path(params).items()
    }

    def walk(wanted: Callable[[int], bool]) -> Outcome:
        values: list[Value] = [
            (views.whole(path, leaf.shape),)
            if leaf is not None and wanted(len(leaf.shape))
            else None
            for path, leaf in floating.items()
        ]
        return _walk(jaxpr, [*values, *([INPUT] * (len(jaxpr.invars) - number))])

    outs, uses = walk(lambda rank: rank > 1)
    # Apart: a vector is mostly a bias or a scale, which must not come between the others' views.
    _, of_vectors = walk(lambda rank: rank == 1)
    return uses + _notes(outs, "returned") + [use for use in of_vectors if use.roles]


def one_example(
    apply: Callable[[Any, Any], Any], params: Any, inputs: Any
) -> tuple[core.Jaxpr, int]:
    """Traces a network on one example; arguments as for `find_uses`.

    Returns:
        The jaxpr of the array leaves, and how many of its operands are parameters; the others are
        inputs.
    """
    leaves, of_params = _abstract(params)
    examples, of_inputs = _abstract(inputs)
    examples = [jax.ShapeDtypeStruct((1, *x.shape[1:])[: len(x.shape)], x.dtype) for x in examples]

    def call(leaves: list[Any], examples: list[Any]) -> Any:
        return apply(of_params(leaves), of_inputs(examples))

    return jax.make_jaxpr(call)(leaves, examples).jaxpr, len(leaves)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def _abstract(tree: Any) -> tuple[list[jax.ShapeDtypeStruct], Callable[[list[Any]], Any]]:
    flat, treedef = jax.tree_util.tree_flatten(tree)
    spots = [i for i, leaf in enumerate(flat) if _is_array(leaf)]

    def rebuild(arrays: list[Any]) -> Any:
        new = dict(enumerate(flat)) | dict(zip(spots, arrays, strict=True))
        return jax.tree_util.tree_unflatten(treedef, list(new.values()))

    return [_struct(flat[i]) for i in spots], rebuild


def _walk(jaxpr: Any, args: Sequence[Value]) -> Outcome:
    env: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
    uses: list[Use] = []

    def read(atom: Any) -> Value:
        return _literal(atom.val) if isinstance(atom, core.Literal) else env.get(atom)

    for eqn in jaxpr.eqns:
        outs, new = _step(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
        uses += new
    return [read(atom) for atom in jaxpr.outvars], uses


def _step(eqn: Any, values: list[Value]) -> Outcome:
    name = eqn.primitive.name
    inner = None if name in HANDLERS else inner_jaxpr(eqn)
    if not any(isinstance(value, tuple) for value in values):
        if inner is not None and all(isinstance(value, int | float) for value in values):
            return _walk(inner, values)
        folded = elementwise.fold(name, values)
        return ([folded], []) if folded is not None else _end(eqn, values, [])
    if inner is not None:
        return _walk(inner, values)
    return HANDLERS.get(name, _lose)(eqn, values)


def _literal(value: Any) -> Value:
    return np.asarray(value).item() if np.ndim(value) == 0 and not _is_key(value) else None


def _is_key(value: Any) -> bool:
    return _is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.extended)


def inner_jaxpr(eqn: Any) -> Any:
    """Returns the jaxpr that the primitive calls with its operands as they are, if there is one."""
    found = [
        getattr(value, "jaxpr", value)
        for value in eqn.params.values()
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ]
    if len(found) != 1 or _shapes(found[0].invars) != _shapes(eqn.invars):
        return None
    return found[0] if len(found[0].outvars) == len(eqn.outvars) else None


def _shapes(atoms: Iterable[Any]) -> list[Any]:
    return [getattr(atom.aval, "shape", None) for atom in atoms]


def _views(values: Iterable[Value]) -> list[View]:
    return [view for value in values if isinstance(value, tuple) for view in value]


def _rest(values: Iterable[Value]) -> Value:
    """What is computed from these values, when no weights can be seen in it any more."""
    return INPUT if any(value is INPUT for value in values) else None


def _end(eqn: Any, values: Sequence[Value], uses: list[Use]) -> Outcome:
    return [_rest(values)] * len(eqn.outvars), uses


def _troubles(values: Iterable[Value], reason: str) -> list[Use]:
    return [Use(view, trouble=view.trouble or reason) for view in _views(values)]


def _notes(values: Iterable[Value], note: str) -> list[Use]:
    return [Use(view, note=note) for view in _views(values)]


def _lose(eqn: Any, values: list[Value]) -> Outcome:
    return _end(eqn, values, _troubles(values, f"goes into {eqn.primitive.name}"))


def _measure(eqn: Any, values: list[Value]) -> Outcome:
    return _end(eqn, values, _notes(values, f"in {eqn.primitive.name}"))


def _pass(eqn: Any, values: list[Value]) -> Outcome:
    return values[: len(eqn.outvars)], []


def _move(eqn: Any, values: list[Value]) -> Outcome:
    moved = moves.TABLE[eqn.primitive.name](eqn, values)
    if moved is None:
        return _lose(eqn, values)
    return (list(moved), []) if moved else _end(eqn, values, _notes(values, "looked up"))


def _elementwise(eqn: Any, values: list[Value]) -> Outcome:
    """Zero weights must stay zero; where they do not, the parameter is followed but in trouble."""
    shape = eqn.outvars[0].aval.shape
    found = [value for value in values if isinstance(value, tuple)]
    main, *others = sorted(found, key=_in_trouble)  # a stable sort
    lost = [value for value in others if value != main]
    large = [a for a, v in zip(eqn.invars, values, strict=True) if v is INPUT and a.aval.size > 1]
    clash = any(_in_trouble(value) == _in_trouble(main) for value in lost)
    if large or clash or eqn.invars[values.index(main)].aval.shape != shape:
        return _lose(eqn, values)
    uses = _troubles(lost, "")
    if not elementwise.keeps_zeros(eqn.primitive.name, eqn.params, values, main):
        reason = f"goes into {eqn.primitive.name}"
        main = tuple(replace(view, trouble=view.trouble or reason) for view in main)
    return [main], uses


def _in_trouble(value: tuple[View, ...]) -> bool:
    return all(view.trouble for view in value)


def _product(eqn: Any, values: list[Value]) -> Outcome:
    """The weight of a product of two parameters is the one that is whole, if only one is."""
    found = [side for side, value in enumerate(values) if isinstance(value, tuple)]
    clean = [side for side in found if not _in_trouble(values[side])] or found
    if len(clean) > 1:
        return _end(eqn, values, _troubles(values, "multiplied with another parameter"))
    (side,) = clean
    weak = INPUT not in values
    uses = [replace(use, weak=weak) for use in PRODUCTS[eqn.primitive.name](eqn, values, side)]
    return _end(eqn, values, uses + _troubles((values[i] for i in found if i != side), ""))


def _enter(body: Any, first: int, carry: Sequence[Value], rest: Value) -> tuple[list[Value], Any]:
    """Returns the carry inside a loop: weights stay weights if the body hands them on unchanged."""
    kept = [body.outvars[i] is body.invars[first + i] for i in range(len(carry))]
    return [value if keep else rest for value, keep in zip(carry, kept, strict=True)], kept


def _leave(eqn: Any, values: Sequence[Value], kept: Sequence[bool], outs: list[Value]) -> Outcome:
    """Returns the results of a loop; `values` are its initial carry."""
    name = eqn.primitive.name
    changed = [value for value, keep in zip(values, kept, strict=True) if not keep]
    new = [out for out, keep in itertools.zip_longest(outs, kept) if not keep]
    uses = _troubles(changed, f"goes into {name}") + _troubles(new, f"goes out of {name}")
    ends = [out if keep else None for out, keep in itertools.zip_longest(outs, kept)]
    return ends, uses


def carry_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """Where the carry begins and ends among the operands of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, _ = (len(list(group)) for group in params["ft_in"].unpack())  # jax >= 0.12
    return consts, consts + carry


def _scan(eqn: Any, values: list[Value]) -> Outcome:
    """A constant is used at each of the `length` passes, each row of an xs at one of them."""
    p, body, rest = eqn.params, eqn.params["jaxpr"].jaxpr, _rest(values)
    first, last = carry_of(p)
    carry, kept = _enter(body, first, values[first:last], rest)
    rows = [
        tuple(views.run_over(view) for view in value) if isinstance(value, tuple) else value
        for value in values[last:]
    ]
    outs, inside = _walk(body, [*values[:first], *carry, *rows])
    uses = [replace(use, macs=use.macs * p["length"]) for use in inside]
    ends, more = _leave(eqn, values[first:last], kept, outs)
    return [rest if end is None else end for end in ends], uses + more


def _while(eqn: Any, values: list[Value]) -> Outcome:
    """The number of passes is not known: the MACs are those of one."""
    p, rest = eqn.params, _rest(values)
    first, last = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    body = p["body_jaxpr"].jaxpr
    carry, kept = _enter(body, p["body_nconsts"], values[last:], rest)
    _, uses = _walk(p["cond_jaxpr"].jaxpr, [*values[:first], *carry])
    outs, inside = _walk(body, [*values[first:last], *carry])
    uses = [
        replace(use, trouble=use.trouble or "in a while loop") if use.roles else use
        for use in uses + inside
    ]
    ends, more = _leave(eqn, values[last:], kept, outs)
    return [rest if end is None else end for end in ends], uses + more


def _cond(eqn: Any, values: list[Value]) -> Outcome:
    runs = [_walk(branch.jaxpr, values[1:]) for branch in eqn.params["branches"]]
    uses, ends = _most([inside for _, inside in runs]), []
    for outs in zip(*(outs for outs, _ in runs), strict=True):
        same = all(out == outs[0] for out in outs)
        ends.append(outs[0] if same and isinstance(outs[0], tuple) else _rest(values))
        uses += [] if same else _troubles(outs, "goes out of cond")
    return ends, uses


def _most(branches: Sequence[Sequence[Use]]) -> list[Use]:
    """Each weight costs what it costs in the branch where it costs most."""
    totals: dict[Any, dict[int, Fraction]] = {}
    for number, uses in enumerate(branches):
        for use in uses:
            of_weight = totals.setdefault(_place(use), {})
            of_weight[number] = of_weight.get(number, Fraction(0)) + use.macs
    dearest = {place: max(macs, key=lambda b: macs[b]) for place, macs in totals.items()}
    return [
        use if dearest[_place(use)] == number else replace(use, macs=Fraction(0))
        for number, uses in enumerate(branches)
        for use in uses
    ]


def _place(use: Use) -> Any:
    return use.view.path, use.view.offset, use.view.stack


PRODUCTS: Mapping[str, Callable[[Any, Sequence[Value], int], list[Use]]] = {
    "dot_general": products.dot,
    "ragged_dot_general": products.ragged_dot,
    "conv_general_dilated": products.convolution,
}

HANDLERS: Mapping[str, Callable[[Any, list[Value]], Outcome]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(moves.TABLE, _move),
    **dict.fromkeys(elementwise.MEASURES, _measure),
    **dict.fromkeys(elementwise.IDENTITY, _pass),
    **dict.fromkeys(elementwise.ZERO_AT_ZERO | elementwise.OTHERS, _elementwise),
}

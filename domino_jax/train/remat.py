"""Rematerialisation: the backward pass makes anew what it needs of the forward pass.

What is kept are the outputs of products with weights, which are dear to make, and what goes from
block to block of a scan. What lies between (norms, activations, attention's scores) is cheap to
make and large. `jax.checkpoint` around a whole network would not do: of a scan it makes the blocks
anew all at once. So the network's own program is evaluated in pieces: each run of equations between
two scans is checkpointed, and so is the body of each scan.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import jax
from jax.extend import core

from domino_jax.trace.rebuild import CUSTOM, bound
from domino_jax.trace.walk import called, carry_of
from domino_jax.train.losses import Apply

_PRODUCTS = ("conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general")
_CHECKPOINTED = ("checkpoint", "remat", "remat2")  # by the network itself, which knows better


def recomputing(apply: Apply) -> Apply:
    """Makes the same forward pass, of which a gradient keeps the outputs of products alone.

    Values and gradients are the same, and the trace of a network sees through it.
    """

    def again(params: Any, stats: Any, inputs: Any, *, train: bool, key: Any) -> tuple[Any, Any]:
        def forward(params: Any, stats: Any, inputs: Any, key: Any) -> tuple[Any, Any]:
            return apply(params, stats, inputs, train=train, key=key)

        arguments = params, stats, inputs, key
        closed, shapes = jax.make_jaxpr(forward, return_shape=True)(*arguments)
        results = _run(closed, jax.tree.leaves(arguments))
        answer: tuple[Any, Any] = jax.tree.unflatten(jax.tree.structure(shapes), results)
        return answer

    return again


def _run(closed: Any, arrays: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr in pieces."""
    jaxpr = getattr(closed, "jaxpr", closed)
    known = dict(zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True))
    known |= dict(zip(jaxpr.invars, arrays, strict=True))
    pieces = [
        list(eqns)
        for _, eqns in groupby(jaxpr.eqns, lambda eqn: id(eqn) if _stands_alone(eqn) else None)
    ]
    for number, eqns in enumerate(pieces):
        if _stands_alone(eqns[0]):
            results, made = eqns[0].outvars, _alone(eqns[0], _read(eqns[0].invars, known))
        else:
            later = [atom for piece in pieces[number + 1 :] for eqn in piece for atom in eqn.invars]
            results, made = _checkpointed(eqns, _variables([*later, *jaxpr.outvars]), known)
        known.update(zip(results, made, strict=True))
    return _read(jaxpr.outvars, known)


def _checkpointed(
    eqns: Sequence[Any], later: Mapping[Any, None], known: Mapping[Any, Any]
) -> tuple[list[Any], list[Any]]:
    """Evaluates equations as one checkpoint: returns what of their results is needed later."""
    needed = [var for eqn in eqns for var in eqn.outvars if var in later]
    given = [var for var in _variables(a for eqn in eqns for a in eqn.invars) if var in known]
    piece = jax.checkpoint(partial(_piece, eqns, given, needed), policy=_is_kept)
    return needed, piece(*(known[var] for var in given))


def _piece(eqns: Sequence[Any], given: Sequence[Any], needed: Sequence[Any], *arrays: Any) -> list:
    known = dict(zip(given, arrays, strict=True))
    for eqn in eqns:
        known.update(zip(eqn.outvars, bound(eqn, *_read(eqn.invars, known)), strict=True))
    return _read(needed, known)


def _stands_alone(eqn: Any) -> bool:
    """Says whether an equation is a scan, has one inside, or is checkpointed already."""
    return eqn.primitive.name in _CHECKPOINTED or _has_scan(eqn)


def _has_scan(eqn: Any) -> bool:
    if eqn.primitive.name == "scan":
        return True
    inner = None if eqn.primitive.name in CUSTOM else called(eqn)
    return inner is not None and any(map(_has_scan, getattr(inner, "jaxpr", inner).eqns))


def _alone(eqn: Any, arrays: list[Any]) -> list[Any]:
    if eqn.primitive.name in _CHECKPOINTED:
        return bound(eqn, *arrays)
    return _scan(eqn.params, arrays) if eqn.primitive.name == "scan" else _run(called(eqn), arrays)


def _scan(params: Any, arrays: list[Any]) -> list[Any]:
    first, last = carry_of(params)
    consts, start, stacks = arrays[:first], arrays[first:last], arrays[last:]

    def body(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _run(params["jaxpr"], [*consts, *carry, *rows])
        return results[: len(start)], results[len(start) :]

    after, per_pass = jax.lax.scan(
        body, start, stacks, params["length"], reverse=params["reverse"], unroll=params["unroll"]
    )
    return [*after, *per_pass]


def _read(atoms: Iterable[Any], known: Mapping[Any, Any]) -> list[Any]:
    return [atom.val if isinstance(atom, core.Literal) else known[atom] for atom in atoms]


def _variables(atoms: Iterable[Any]) -> dict[Any, None]:
    """Lists what are no literals, each once."""
    return dict.fromkeys(atom for atom in atoms if not isinstance(atom, core.Literal))


def _is_kept(primitive: Any, *_: Any, **options: Any) -> bool:
    """Says whether an output is kept: that of a product without batch axes, as with weights.

    Attention's scores are products with batch axes, a number for each pair of positions.
    """
    if primitive.name not in _PRODUCTS:
        return False
    return primitive.name != "dot_general" or not any(options["dimension_numbers"][1])

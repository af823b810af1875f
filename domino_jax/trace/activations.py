"""What no mask can save: multiply-adds of products of two activations, such as attention's."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

from domino_jax.trace.walk import PRODUCTS, carry_of, inner_jaxpr, one_example

Outcome = tuple[list[bool], int]  # which results depend on the inputs, and the multiply-adds


def activation_macs(apply: Callable[[Any, Any], Any], params: Any, inputs: Any) -> int:
    """Counts the multiply-adds of one example in products that no weight takes part in.

    Those of matrix products and convolutions whose operands both depend on the inputs. A while loop
    counts as one pass, a cond as its dearest branch. Nothing is executed.

    Args:
        apply: `apply(params, inputs)`.
        params: as for `find_layers`.
        inputs: as for `find_layers`.
    """
    jaxpr, of_params = one_example(apply, params, inputs)
    _, macs = _walk(jaxpr, [place >= of_params for place in range(len(jaxpr.invars))])
    return macs


def _walk(jaxpr: core.Jaxpr, depends: Sequence[bool]) -> Outcome:
    known = dict(zip(jaxpr.invars, depends, strict=True))
    macs = 0

    def read(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and known.get(atom, False)

    for eqn in jaxpr.eqns:
        outs, more = _step(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
        macs += more
    return [read(atom) for atom in jaxpr.outvars], macs


def _step(eqn: Any, depends: list[bool]) -> Outcome:
    name, params = eqn.primitive.name, eqn.params
    if not any(depends):
        return [False] * len(eqn.outvars), 0
    if name in PRODUCTS:
        return [True], _macs(eqn) if all(depends[:2]) else 0
    if name == "scan":
        first, last = carry_of(params)
        outs, macs = _repeat(params["jaxpr"].jaxpr, depends, first, last)
        return outs, macs * params["length"]
    if name == "while":
        consts = params["cond_nconsts"]
        return _repeat(
            params["body_jaxpr"].jaxpr, depends[consts:], params["body_nconsts"], len(depends)
        )
    if name == "cond":
        runs = [_walk(branch.jaxpr, depends[1:]) for branch in params["branches"]]
        outs = [depends[0] or any(of) for of in zip(*(outs for outs, _ in runs), strict=True)]
        return outs, max(macs for _, macs in runs)
    inner = inner_jaxpr(eqn)
    return _walk(inner, depends) if inner is not None else ([True] * len(eqn.outvars), 0)


def _repeat(body: core.Jaxpr, depends: Sequence[bool], first: int, last: int) -> Outcome:
    """Walks the body of a loop until the carry, the operands `first` to `last`, stays as it is."""
    now = list(depends)
    while True:
        outs, macs = _walk(body, now)
        carry = [a or b for a, b in zip(now[first:last], outs, strict=False)]
        if carry == now[first:last]:
            return outs, macs
        now[first:last] = carry


def _macs(eqn: Any) -> int:
    left, right, result = (atom.aval.shape for atom in (*eqn.invars[:2], *eqn.outvars))
    if eqn.primitive.name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        each = math.prod(right) // right[numbers.rhs_spec[0]]
    else:
        numbers = eqn.params.get("dimension_numbers")
        numbers = numbers or eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        (contracting, _), _ = numbers
        each = math.prod(left[dim] for dim in contracting)
    return math.prod(result) * each

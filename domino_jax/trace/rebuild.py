"""Runs a jaxpr anew, so that the gradient of an accumulator is a sum over what a product sees.

Each product with a weight becomes one whose backward pass hands out, as the gradients of
accumulators of zeros, the sums of its inputs and of its output gradients. So JAX itself adds them
up, over the passes of loops, the uses of a weight and the branches that are taken, and nothing is
stored that a training step does not store. Accumulators go where their weight goes: a scan over a
stack hands each pass the row that is its own.

A call whose products have weights is evaluated in place: a custom derivative rule around them gives
way to that of its own program. All other equations are bound as they are.

Letters: V, G, R, k, o as in `sites`; K inputs and O outputs of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from domino_jax.trace.products import PRODUCTS
from domino_jax.trace.sites import Site
from domino_jax.trace.slots import Held, Slot, Sums, as_seen, entered, rows_of, started, sums_of
from domino_jax.trace.values import views_of
from domino_jax.trace.walk import Interpreter, Value, called, carry_of, equation, passes

CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class Plan(NamedTuple):
    """What to follow, and which weights to tap: path -> whether weak products count."""

    interpreter: Interpreter
    paths: Mapping[str, bool]

    def wants(self, fact: Any) -> bool:
        """Says whether a fact is a site that counts."""
        return isinstance(fact, Site) and self.paths.get(fact.path) is fact.weak


def run(jaxpr: Any, args: Sequence[Held], plan: Plan) -> list[Held]:
    """Evaluates a jaxpr; see the module."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Any, Held] = {}

    def constant(value: Any) -> Held:
        return Held(value, plan.interpreter.constant(value), {})

    def read(atom: Any) -> Held:
        return constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    known.update(zip(inner.constvars, map(constant, getattr(jaxpr, "consts", ())), strict=True))
    known.update(zip(inner.invars, args, strict=True))
    for eqn in inner.eqns:
        helds = [read(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _equation(eqn, helds, plan), strict=True))
    return [read(atom) for atom in inner.outvars]


def _equation(eqn: Any, helds: list[Held], plan: Plan) -> list[Held]:
    values, facts = equation(eqn, [held.value for held in helds], plan.interpreter)
    sites = [fact for fact in facts if plan.wants(fact)]
    name = eqn.primitive.name
    inner = None if name in REBUILT else called(eqn)
    if inner is not None and (sites or (name not in CUSTOM and any(h.slots for h in helds))):
        return run(inner, helds, plan)
    if sites and name in PRODUCTS:
        arrays = [_product(eqn, helds, sites)]
    elif sites:
        arrays = REBUILT[name](eqn, helds, plan)
    else:
        arrays = bound(eqn, *(held.array for held in helds))
    slots = {path: slot for held in helds for path, slot in held.slots.items()}
    if name == "dynamic_slice":
        slots = started(eqn, helds, slots)
    return [
        Held(array, value, _of(value, slots)) for array, value in zip(arrays, values, strict=True)
    ]


def _of(value: Value, slots: Mapping[str, Slot]) -> dict[str, Slot]:
    return {view.path: slots[view.path] for view in views_of([value]) if view.path in slots}


def bound(eqn: Any, *arrays: Any) -> list[Any]:
    """Computes an equation as it is."""
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _again(eqn: Any, helds: list[Held], plan: Plan) -> list[Any]:
    """Rebuilds what is to be computed again in the backward pass."""

    def body(*arrays: Any) -> list[Any]:
        return [held.array for held in run(eqn.params["jaxpr"], _with(helds, arrays), plan)]

    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
    again = jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)
    return again(*(held.array for held in helds))


def _with(helds: Sequence[Held], arrays: Sequence[Any]) -> list[Held]:
    return [held._replace(array=array) for held, array in zip(helds, arrays, strict=True)]


def _cond(eqn: Any, helds: list[Held], plan: Plan) -> list[Any]:
    """The sums of a branch that is not taken stay zero, and so do its rows."""
    which, *operands = helds

    def branch(jaxpr: Any, *arrays: Any) -> list[Any]:
        return [held.array for held in run(jaxpr, _with(operands, arrays), plan)]

    branches = [partial(branch, jaxpr) for jaxpr in eqn.params["branches"]]
    return jax.lax.switch(which.array, branches, *(held.array for held in operands))


def _scan(eqn: Any, helds: list[Held], plan: Plan) -> list[Any]:
    """Rebuilds a scan; accumulators of what it runs over are rows, all others are constants."""
    p = eqn.params
    first, last = carry_of(p)
    consts, carry, stacks = helds[:first], helds[first:last], helds[last:]
    row = plan.interpreter.row
    rows = [Held(None, row(held.value), {}) for held in stacks]
    carried, *_ = passes(
        p["jaxpr"],
        [held.value for held in consts],
        [held.value for held in carry],
        [held.value for held in rows],
        plan.interpreter,
        "scan",
    )
    inside = [Held(None, v, _of(v, h.slots)) for v, h in zip(carried, carry, strict=True)]
    taken = [rows_of(held) for held in stacks]

    def body(arrays: list[Any], scanned: Any) -> tuple[list[Any], list[Any]]:
        number, of_rows, sums = scanned
        own = [
            held._replace(array=array, slots=entered(stack, number, given))
            for held, stack, array, given in zip(rows, stacks, of_rows, sums, strict=True)
        ]
        results = [
            held.array for held in run(p["jaxpr"], [*consts, *_with(inside, arrays), *own], plan)
        ]
        return results[: len(carry)], results[len(carry) :]

    numbers = jnp.arange(p["length"], dtype=jnp.int32)
    start = [held.array for held in carry]
    scanned = (numbers, [held.array for held in stacks], taken)
    after, per_pass = jax.lax.scan(
        body, start, scanned, p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    return [*after, *per_pass]


def _product(eqn: Any, helds: list[Held], sites: Sequence[Site]) -> Any:
    """A product whose backward pass also hands out sums, as the gradients of accumulators."""
    side = sites[0].side

    @jax.custom_vjp
    def tapped(arrays: list[Any], accumulators: list[Sums]) -> Any:
        del accumulators
        return bound(eqn, *arrays)[0]

    def forward(arrays: list[Any], accumulators: list[Sums]) -> Any:
        return tapped(arrays, accumulators), (arrays, accumulators)

    def backward(saved: Any, g: Any) -> Any:
        arrays, accumulators = saved
        _, pull = jax.vjp(lambda *arrays: bound(eqn, *arrays)[0], *arrays)
        seen = [
            sums_of(site, arrays[1 - side], g, zeros)
            for site, zeros in zip(sites, accumulators, strict=True)
        ]
        return list(pull(g)), seen

    tapped.defvjp(forward, backward)
    slots = helds[side].slots
    accumulators = [as_seen(slots[site.path], site) for site in sites]
    return tapped([held.array for held in helds], accumulators)


REBUILT: Mapping[str, Callable[[Any, list[Held], Plan], list[Any]]] = {
    "scan": _scan,
    "cond": _cond,
    **dict.fromkeys(("checkpoint", "remat", "remat2"), _again),
}

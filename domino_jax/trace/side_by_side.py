"""Runs a jaxpr for several batches side by side, and stops at every product with a weight.

Between two stops a batch goes through all equations in one compiled piece. Scans whose rows are
weights are run pass by pass. What is made of weights alone is computed anew when it is asked for,
since weights may change at a stop; all else that depends on no batch is computed once.

Letters: V, G, R, k as in `sites`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from domino_jax.core.ranks import at_least_float32
from domino_jax.trace import views
from domino_jax.trace.products import PRODUCTS
from domino_jax.trace.rebuild import bound
from domino_jax.trace.sites import Site
from domino_jax.trace.values import views_of
from domino_jax.trace.walk import Interpreter, Value, called, carry_of, equation

Memo = dict[int, Any]


class Made(NamedTuple):
    """What is made of weights: result `number` of what `get` computes, once a memo."""

    get: Callable[[Memo], Sequence[Any]]
    number: int

    def now(self, memo: Memo) -> Any:
        """Computes it of the weights as they are."""
        key = id(self.get)
        if key not in memo:
            memo[key] = self.get(memo)
        return memo[key][self.number]


class Cell(NamedTuple):
    """An array, what it is (a value of `sites_of`), and how it depends on batches and weights.

    Attributes:
        value: what the interpreter says of it.
        shared: of all batches; None where it is one of the other two.
        each: of every batch.
        made: of weights.
    """

    value: Value
    shared: Any = None
    each: Sequence[Any] | None = None
    made: Made | None = None

    def of(self, batch: int, memo: Memo) -> Any:
        """Returns the array as a batch has it."""
        if self.each is not None:
            return self.each[batch]
        return self.shared if self.made is None else self.made.now(memo)


class Seen(NamedTuple):
    """What the product of a site sees.

    Attributes:
        products: sum of x xᵀ over the rows of all batches, [V, G, k, k].
        rows: how many they are, [].
    """

    products: jax.Array
    rows: jax.Array


class Hooks(NamedTuple):
    """What happens at the stops.

    Attributes:
        interpreter: `sites_of` the layers.
        wants: fact -> whether to stop there.
        meet: (site, whether a scan meets its weight at every pass, () -> what it sees) -> None,
            before the product is computed.
        meet_whole: fact in a loop or branch -> None, before that is run as a whole.
        compiled: of the pieces, {} at the start.
    """

    interpreter: Interpreter
    wants: Callable[[Any], bool]
    meet: Callable[[Site, bool, Callable[[], Seen]], None]
    meet_whole: Callable[[Any], None]
    compiled: dict[Any, Any]


def run(
    jaxpr: Any, args: Sequence[Cell], hooks: Hooks, looped: frozenset[str] = frozenset()
) -> list[Cell]:
    """Evaluates a jaxpr; see the module.

    Args:
        jaxpr: a ClosedJaxpr, or a Jaxpr without constants.
        args: its operands.
        hooks: what happens at the stops.
        looped: parameters that an enclosing scan hands to every pass.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Any, Cell] = {}
    constants = [Cell(hooks.interpreter.constant(c), c) for c in getattr(jaxpr, "consts", ())]
    known.update(zip(inner.constvars, constants, strict=True))
    known.update(zip(inner.invars, args, strict=True))
    last = _last_uses(inner)
    waiting: list[int] = []

    def read(atom: Any) -> Cell:
        if isinstance(atom, core.Literal):
            return Cell(hooks.interpreter.constant(atom.val), atom.val)
        return known[atom]

    def catch_up(number: int) -> None:
        """Computes the equations that wait before equation `number`; forgets what is not used."""
        _compute(inner, waiting, known, {v for v, use in last.items() if use >= number}, hooks)
        waiting.clear()
        for var in [var for var in known if last.get(var, -1) < number]:
            del known[var]

    for number, eqn in enumerate(inner.eqns):
        values, facts = equation(eqn, [read(atom).value for atom in eqn.invars], hooks.interpreter)
        met = [fact for fact in facts if hooks.wants(fact)]
        if met:
            catch_up(number)
        cells = [read(atom) for atom in eqn.invars]
        results = _stopped(eqn, cells, met, hooks, looped) if met else None
        if results is None:
            if any(cell.each is not None for cell in cells):
                waiting.append(number)
                results = [Cell(value, each=()) for value in values]
            elif any(cell.made for cell in cells):
                results = _of_weights(eqn, cells, values)
            else:
                arrays = bound(eqn, *(cell.shared for cell in cells))
                results = [Cell(*pair) for pair in zip(values, arrays, strict=True)]
        known.update(zip(eqn.outvars, results, strict=True))
    catch_up(len(inner.eqns))
    return [read(atom) for atom in inner.outvars]


def _last_uses(jaxpr: Any) -> dict[Any, int]:
    """Returns the last equation that reads each variable; their number for the results."""
    atoms = [(n, a) for n, eqn in enumerate(jaxpr.eqns) for a in eqn.invars]
    atoms += [(len(jaxpr.eqns), a) for a in jaxpr.outvars]
    return {atom: number for number, atom in atoms if not isinstance(atom, core.Literal)}


def _compute(
    jaxpr: Any, numbers: Sequence[int], known: dict[Any, Cell], needed: set[Any], hooks: Hooks
) -> None:
    """Computes some equations for each batch, and puts those of their results that are needed."""
    eqns = [jaxpr.eqns[number] for number in numbers]
    made = {var for eqn in eqns for var in eqn.outvars}
    read = [a for eqn in eqns for a in eqn.invars if not isinstance(a, core.Literal)]
    ins = [var for var in dict.fromkeys(read) if var not in made]
    outs = [var for eqn in eqns for var in eqn.outvars if var in needed]
    if not outs:
        return
    key = (id(jaxpr), *numbers)
    if key not in hooks.compiled:
        hooks.compiled[key] = jax.jit(_program(eqns, ins, outs))
    memo: Memo = {}
    count = next(len(known[var].each or ()) for var in ins if known[var].each is not None)
    of_batch = [
        hooks.compiled[key](*(known[var].of(batch, memo) for var in ins)) for batch in range(count)
    ]
    for var, arrays in zip(outs, zip(*of_batch, strict=True), strict=True):
        known[var] = known[var]._replace(each=arrays)


def _program(eqns: Sequence[Any], ins: Sequence[Any], outs: Sequence[Any]) -> Callable[..., Any]:
    def compute(*arrays: Any) -> list[Any]:
        known = dict(zip(ins, arrays, strict=True))
        for eqn in eqns:
            operands = [a.val if isinstance(a, core.Literal) else known[a] for a in eqn.invars]
            known.update(zip(eqn.outvars, bound(eqn, *operands), strict=True))
        return [known[var] for var in outs]

    return compute


def _of_weights(eqn: Any, cells: Sequence[Cell], values: Sequence[Value]) -> list[Cell]:
    def get(memo: Memo) -> Sequence[Any]:
        return bound(eqn, *(cell.of(0, memo) for cell in cells))

    return [Cell(value, made=Made(get, number)) for number, value in enumerate(values)]


def _stopped(
    eqn: Any, cells: list[Cell], met: Sequence[Any], hooks: Hooks, looped: frozenset[str]
) -> list[Cell] | None:
    """Does what is to be done at a stop; None where the equation is still to be computed."""
    name = eqn.primitive.name
    if name == "scan" and {fact.path for fact in met} & _paths(cells[carry_of(eqn.params)[1] :]):
        return _pass_by_pass(eqn, cells, hooks, looped)
    inner = None if name in ("scan", "while", "cond") else called(eqn)
    if inner is not None:
        return run(inner, cells, hooks, looped)
    for fact in met:
        side = getattr(fact, "side", None)
        if name in PRODUCTS and side is not None and cells[side].made is not None:
            hooks.meet(fact, fact.path in looped, _seeing(eqn, fact, cells[1 - side], hooks))
        else:
            hooks.meet_whole(fact)
    return None


def _paths(cells: Sequence[Cell]) -> set[str]:
    return {view.path for view in views_of([cell.value for cell in cells])}


def _seeing(eqn: Any, site: Site, other: Cell, hooks: Hooks) -> Callable[[], Seen]:
    def see() -> Seen:
        key = (id(eqn), site.path)
        if key not in hooks.compiled:
            hooks.compiled[key] = jax.jit(lambda x: _seen(site, x))
        add = hooks.compiled[key]
        first, *others = other.each if other.each is not None else [other.of(0, {})]
        total = add(first)
        for x in others:
            total = jax.tree.map(jnp.add, total, add(x))
        return total

    return see


def _seen(site: Site, x: jax.Array) -> Seen:
    """Adds up what one batch shows."""

    def add(part: jax.Array) -> Seen:
        rows = site.reads.rows(part)
        rows = rows.astype(at_least_float32(rows.dtype))
        sides = ((2,), (2,)), ((0, 1), (0, 1))
        products = jax.lax.dot_general(rows, rows, sides, precision="highest")
        return Seen(products, jnp.asarray(rows.shape[2], products.dtype))

    parts = site.reads.parts(x)
    if parts.shape[0] == 1:
        return add(parts[0])
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(add, parts[0])
    )
    return jax.lax.scan(lambda seen, x: (jax.tree.map(jnp.add, seen, add(x)), None), zeros, parts)[
        0
    ]


def _pass_by_pass(eqn: Any, cells: list[Cell], hooks: Hooks, looped: frozenset[str]) -> list[Cell]:
    p = eqn.params
    first, last = carry_of(p)
    consts, carry, stacks = cells[:first], cells[first:last], cells[last:]
    looped = looped | _paths([*consts, *carry])
    passes = range(p["length"])
    made: list[list[Cell]] = []
    for number in reversed(passes) if p["reverse"] else passes:
        rows = [_row(cell, number, hooks) for cell in stacks]
        results = run(p["jaxpr"], [*consts, *carry, *rows], hooks, looped)
        carry, per_pass = results[: len(carry)], results[len(carry) :]
        made.append(per_pass)
    if p["reverse"]:
        made.reverse()
    return [*carry, *(_gathered(each, hooks) for each in zip(*made, strict=True))]


def _row(cell: Cell, number: int, hooks: Hooks) -> Cell:
    value = _row_value(cell.value, number, hooks)
    if cell.each is not None:
        return Cell(value, each=[x[number] for x in cell.each])
    made = cell.made
    if made is None:
        return Cell(value, cell.shared[number])
    return Cell(value, made=Made(lambda memo: [made.now(memo)[number]], 0))


def _row_value(value: Value, number: int, hooks: Hooks) -> Value:
    if not isinstance(value, tuple):
        return hooks.interpreter.row(value)
    rows = []
    for view in value:
        starts, sizes = [number] + [0] * (len(view.dims) - 1), [1, *view.shape[1:]]
        part = views.cut(view, starts, sizes)
        if part is None:
            return hooks.interpreter.row(value)
        rows.append(views.squeeze(part, (0,)))
    return tuple(rows)


def _gathered(passes: Sequence[Cell], hooks: Hooks) -> Cell:
    """Stacks what the passes of a scan added."""
    value = hooks.interpreter.rows(passes[0].value, "scan")[0]
    each = [cell.each for cell in passes if cell.each is not None]
    if each:
        memo: Memo = {}
        count = range(len(each[0]))
        return Cell(value, each=[jnp.stack([c.of(b, memo) for c in passes]) for b in count])
    if all(cell.made is None for cell in passes):
        return Cell(value, jnp.stack([cell.shared for cell in passes]))
    return Cell(value, made=Made(lambda memo: [jnp.stack([c.of(0, memo) for c in passes])], 0))

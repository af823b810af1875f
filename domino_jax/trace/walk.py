"""One walk over a jaxpr, whatever is followed through it; nothing is executed.

A jaxpr is a list of equations: `c = primitive[params] a b`. The walk keeps an environment (what is
known of each variable) and enters the jaxprs inside equations: jit, remat, custom derivatives,
loops and branches. What a value is, and what an ordinary equation does to it, is said by an
`Interpreter`: `trace.weights` follows parameters to their products, `trace.norms` variances to
their epsilons.

A walk returns values (one a result) and facts (what was seen on the way, in trace order).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core

Value = Any
Facts = list[Any]


class Interpreter(NamedTuple):
    """What a value is and what happens to it.

    Attributes:
        constant: array or scalar -> its value: of a literal, or a constant that apply closes over.
        step: (equation, values of its operands) -> values of its results, and facts.
        join: (values, by, place) -> the value that stands for all of them, and facts: what a
            carry is before and after a pass of a loop, or a result in each branch; `by` is the
            value of the predicate, None where there is none; `place` is the primitive.
        row: value of an array -> that of one of its rows, as a scan hands them to its body.
        rows: (value of a row, place) -> the value of all rows together, and facts.
        repeat: (facts of one pass, number of passes, None if unknown, whether rows are taken from
            the last to the first) -> facts of all passes.
        either: facts of each branch -> facts of the whole.
    """

    constant: Callable[[Any], Value]
    step: Callable[[Any, list[Value]], tuple[list[Value], Facts]]
    join: Callable[[Sequence[Value], Value, str], tuple[Value, Facts]]
    row: Callable[[Value], Value]
    rows: Callable[[Value, str], tuple[Value, Facts]]
    repeat: Callable[[Facts, int | None, bool], Facts]
    either: Callable[[Sequence[Facts]], Facts]


def walk(jaxpr: Any, args: Sequence[Value], interpreter: Interpreter) -> tuple[list[Value], Facts]:
    """Follows the values of the operands through a jaxpr.

    Args:
        jaxpr: a ClosedJaxpr, or a Jaxpr without constants.
        args: values of its operands.
        interpreter: what they are.

    Returns:
        Values of its results, and facts.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    constants = [interpreter.constant(value) for value in getattr(jaxpr, "consts", ())]
    known: dict[Any, Value] = dict(zip(inner.constvars, constants, strict=True))
    known |= dict(zip(inner.invars, args, strict=True))
    facts: Facts = []

    def read(atom: Any) -> Value:
        return interpreter.constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for eqn in inner.eqns:
        results, more = equation(eqn, [read(atom) for atom in eqn.invars], interpreter)
        known.update(zip(eqn.outvars, results, strict=True))
        facts += more
    return [read(atom) for atom in inner.outvars], facts


def equation(eqn: Any, values: list[Value], interpreter: Interpreter) -> tuple[list[Value], Facts]:
    """Follows the values of its operands through one equation, and through what it calls."""
    if eqn.primitive.name in _CONTROL:
        return _CONTROL[eqn.primitive.name](eqn, values, interpreter)
    inner = called(eqn)
    return interpreter.step(eqn, values) if inner is None else walk(inner, values, interpreter)


def called(eqn: Any) -> Any:
    """Returns the jaxpr that an equation calls with its operands as they are, if there is one.

    By its shape, not by the primitive's name: jit, remat, custom_jvp_call and their like each have
    exactly one jaxpr, whose operands and results are those of the equation. Whatever differs (a
    shard_map over parts of arrays, a kernel) is left to the interpreter, which knows it not.
    """
    jaxprs = [v for v in eqn.params.values() if isinstance(v, core.Jaxpr | core.ClosedJaxpr)]
    if len(jaxprs) != 1:
        return None
    inner = getattr(jaxprs[0], "jaxpr", jaxprs[0])
    if _shapes(inner.invars) != _shapes(eqn.invars) or len(inner.outvars) != len(eqn.outvars):
        return None
    return jaxprs[0] if not inner.constvars or jaxprs[0] is not inner else None


def _shapes(atoms: Iterable[Any]) -> list[Any]:
    return [getattr(atom.aval, "shape", None) for atom in atoms]


def carry_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where the carry begins and ends among the operands of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, _ = (len(list(group)) for group in params["ft_in"].unpack())  # jax >= 0.12
    return consts, consts + carry


def _scan(eqn: Any, values: list[Value], interpreter: Interpreter) -> tuple[list[Value], Facts]:
    """Operands are constants (the same at each pass), the carry, and arrays taken row by row."""
    first, last = carry_of(eqn.params)
    rows = [interpreter.row(value) for value in values[last:]]
    carry, per_pass, inside, lost = passes(
        eqn.params["jaxpr"], values[:first], values[first:last], rows, interpreter, "scan"
    )
    all_passes = interpreter.repeat(inside, eqn.params["length"], eqn.params["reverse"])
    results, facts = list(carry), all_passes + lost
    for value in per_pass:
        together, more = interpreter.rows(value, "scan")
        results.append(together)
        facts += more
    return results, facts


def _while(eqn: Any, values: list[Value], interpreter: Interpreter) -> tuple[list[Value], Facts]:
    """Nobody knows how many passes there are."""
    p = eqn.params
    first, last = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry, _, inside, lost = passes(
        p["body_jaxpr"], values[first:last], values[last:], (), interpreter, "while"
    )
    _, asked = walk(p["cond_jaxpr"], [*values[:first], *carry], interpreter)
    return list(carry), interpreter.repeat(asked + inside, None, False) + lost


def passes(
    body: Any,
    consts: Sequence[Value],
    carry: Sequence[Value],
    rows: Sequence[Value],
    interpreter: Interpreter,
    place: str,
) -> tuple[Sequence[Value], list[Value], Facts, Facts]:
    """Walks the body of a loop until its carry stays what it is.

    What holds at the first pass need not hold at the second: a carry of zeros depends on the inputs
    from the second pass on. So the carry becomes what joins before and after, and the body is
    walked again. Joined values only ever get less definite, so this ends.

    Returns:
        The carry, what the body adds at each pass, the facts of one pass, and those of the joins.
    """
    lost: Facts = []
    while True:
        results, inside = walk(body, [*consts, *carry, *rows], interpreter)
        pairs = zip(carry, results[: len(carry)], strict=True)
        joined = [interpreter.join(pair, None, place) for pair in pairs]
        lost += [fact for _, facts in joined for fact in facts]
        after = [value for value, _ in joined]
        if after == list(carry):
            return carry, results[len(carry) :], inside, lost
        carry = after


def _cond(eqn: Any, values: list[Value], interpreter: Interpreter) -> tuple[list[Value], Facts]:
    """Operands are the number of the branch, and those that every branch is called with.

    Branches of platforms (`jax.lax.platform_dependent`) compute the same in several ways: the one
    for any platform says what.
    """
    branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
    if platforms is not None and None in platforms:
        return walk(branches[platforms.index(None)], values[1:], interpreter)
    runs = [walk(branch, values[1:], interpreter) for branch in branches]
    results, facts = [], interpreter.either([inside for _, inside in runs])
    for candidates in zip(*(outs for outs, _ in runs), strict=True):
        value, more = interpreter.join(candidates, values[0], "cond")
        results.append(value)
        facts += more
    return results, facts


_CONTROL: Mapping[str, Callable[[Any, list[Value], Interpreter], tuple[list[Value], Facts]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}

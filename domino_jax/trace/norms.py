"""The epsilon of each batch norm: what is added to its running variance before the root.

A value of this walk is a norm (the path of its module, while it is its variance), a floating
number, or None. The facts are pairs (norm, epsilon).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from domino_jax.trace.walk import Facts, Interpreter, Value, walk

# What may stand between a running variance, or an epsilon, and their sum.
_SAME = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient")


def epsilons(closed: Any, leaves: Sequence[str | None]) -> dict[str, float]:
    """Reads what each batch norm adds to its running variance before the root.

    Args:
        closed: the closed jaxpr of a network in evaluation mode.
        leaves: paths of the running statistics among its operands, in order, None for others; what
            is missing at the end is None.

    Returns:
        Path of each norm's module -> epsilon; norms where it cannot be read are missing.
    """
    norms: list[Value] = [path and norm_of(path) for path in leaves]
    norms += [None] * (len(closed.jaxpr.invars) - len(norms))
    return dict(walk(closed, norms, _NORMS)[1])


def norm_of(path: str) -> str | None:
    """Returns the module of a running variance, None of another statistic."""
    owner, _, last = path.rpartition("/")
    return owner if last == "var" else None


def _constant(value: Any) -> float | None:
    """Returns a floating constant; an array of one value is one too."""
    floating = np.size(value) == 1 and jnp.issubdtype(jnp.result_type(value), jnp.floating)
    return float(np.asarray(value).item()) if floating else None


def _step(eqn: Any, values: list[Value]) -> tuple[list[Value], Facts]:
    name, none = eqn.primitive.name, [None] * len(eqn.outvars)
    if name in _SAME:
        return values[:1], []
    pairs = [(n, e) for n in values for e in values if isinstance(n, str) and isinstance(e, float)]
    return none, pairs if name == "add" else []


def _join(values: Sequence[Value], by: Value, place: str) -> tuple[Value, Facts]:
    del by, place
    return (values[0] if all(value == values[0] for value in values) else None), []


# A scan may run over the norms of stacked blocks: a row of their variances is still a variance.
_NORMS = Interpreter(
    constant=_constant,
    step=_step,
    join=_join,
    row=lambda value: value,
    rows=lambda value, _: (value, []),
    repeat=lambda facts, *_: facts,
    either=lambda branches: [fact for facts in branches for fact in facts],
)

"""Batch norms in a traced network: what each adds to its running variance before the root."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from domino_jax.trace.walk import inner_jaxpr

# What may stand between a running variance, or an epsilon, and their sum.
_SAME = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient")


def epsilons(closed: Any, leaves: Sequence[str | None]) -> dict[str, float]:
    """Reads the epsilon of each batch norm.

    Args:
        closed: the closed jaxpr of a network in evaluation mode.
        leaves: paths of the running statistics among its operands, in order, None for others; what
            is missing at the end is None.

    Returns:
        Path of each norm's module -> epsilon; norms where it cannot be read are missing.
    """
    operands: list[Any] = [path and norm_of(path) for path in leaves]
    operands += [None] * (len(closed.jaxpr.invars) - len(operands))
    found: dict[str, float] = {}
    _walk(closed.jaxpr, operands, closed.consts, found)
    return found


def norm_of(path: str) -> str | None:
    """Returns the module of a running variance, None of another statistic."""
    owner, _, last = path.rpartition("/")
    return owner if last == "var" else None


def _walk(
    jaxpr: Any, args: Sequence[Any], consts: Sequence[Any], found: dict[str, float]
) -> list[Any]:
    """Follows values that are a norm's variance (its path) or a constant (a number)."""
    env = dict(zip(jaxpr.invars, args, strict=True))
    env |= {var: _number(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Any:
        return _number(atom.val) if isinstance(atom, core.Literal) else env.get(atom)

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in _SAME:
            env[eqn.outvars[0]] = values[0]
        elif eqn.primitive.name == "add":
            found |= {n: e for n in values for e in values if _is_pair(n, e)}
        if (inner := inner_jaxpr(eqn)) is not None:
            env |= dict(zip(eqn.outvars, _walk(inner, values, (), found), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_pair(norm: Any, epsilon: Any) -> bool:
    return isinstance(norm, str) and isinstance(epsilon, float)


def _number(value: Any) -> float | None:
    """Returns a floating constant; an array of one value is one too."""
    floating = np.size(value) == 1 and jnp.issubdtype(jnp.result_type(value), jnp.floating)
    return float(np.asarray(value).item()) if floating else None

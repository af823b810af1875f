"""What the candidates allow: the lowest cost within reach, and the fewest votes to a budget."""

import math
from collections.abc import Callable, Iterable

from domino_jax.core.costs import Budget, Cost, Number, lowest_cost, shown, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, counted, grouped
from domino_jax.core.rules import flattened, shrunk

# Rules for the layers whose inputs M does not divide.
_GROUPING = {"flatten": flattened, "shrink": shrunk}


def require_reachable(layers: Iterable[LayerSpec], budget: Budget) -> None:
    """Refuses a budget below what the candidates allow.

    Raises:
        InputError: with the lowest share within reach, as it is and with each rule that lowers it.
    """
    layers = tuple(layers)
    if lowest_cost(layers, budget.cost) > budget.allowed:
        raise _out_of_reach(layers, budget)


def fewest_votes(layers: Iterable[LayerSpec], budget: Budget) -> int:
    """Counts the votes that a search needs if every layer takes n - 1 in each of them.

    Raises:
        InputError: as `require_reachable`.
    """
    layers = tuple(layers)
    most = max((layer.m for layer in grouped(layers)), default=1)
    for votes in range(most):
        if _lowest_after(layers, budget.cost, votes) <= budget.allowed:
            return votes
    raise _out_of_reach(layers, budget)


def _out_of_reach(layers: tuple[LayerSpec, ...], budget: Budget) -> InputError:
    dense, floor = total_cost(layers, budget.cost), lowest_cost(layers, budget.cost)
    others = {name: _lowest_under(rule, layers, budget.cost) for name, rule in _GROUPING.items()}
    more = "".join(
        f"; {_share(least, dense)} with the {name!r} rule"
        for name, least in others.items()
        if least is not None and least < floor
    )
    return InputError(
        f"budget {budget.share:.6g} is out of reach: the candidates allow "
        f"{_share(floor, dense)} of the dense cost at the least{more}"
    )


def _lowest_after(layers: tuple[LayerSpec, ...], cost: Cost, votes: int) -> Number:
    least = {layer.name: layer.m - votes for layer in grouped(layers)}
    return sum(
        min(cost(layer, n) for n in layer.candidates if n >= least[layer.name])
        if layer.name in least
        else cost(layer, None)
        for layer in counted(layers)
    )


def _lowest_under(
    rule: Callable[..., tuple[LayerSpec, ...]], layers: tuple[LayerSpec, ...], cost: Cost
) -> Number | None:
    """Adds up the lowest cost with a rule for the layers that do not fit."""
    for candidates in dict.fromkeys(layer.candidates for layer in grouped(layers)):
        layers = rule(layers, candidates[-1], candidates)
    try:
        return lowest_cost(layers, cost)
    except KeyError:  # a cost table knows nothing of a layer that it was made without
        return None


def _share(part: Number, whole: Number) -> str:
    share = math.ceil(float(part / whole) * 1e4) / 1e4  # rounded up: that budget is within reach
    return f"{share:.4f} ({shown(part)} of {shown(whole)})"

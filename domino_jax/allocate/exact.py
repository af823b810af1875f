"""The scheme of the least total loss that meets every budget to the last weight.

A loss table says what each layer's n costs by itself; the sum over layers is minimal among all
schemes of candidates within the budgets. Costs are compared as exact integers or fractions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from domino_jax.allocate.knapsack import Choice, least_loss
from domino_jax.allocate.loss_table import LossTable, without_noise
from domino_jax.allocate.reach import require_reachable
from domino_jax.core.costs import Budget, Number, count_macs, count_weights, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import NM, Scheme

SECONDS = 8.0  # after which the solver stops, and says how far from the least it is
NO_BOUNDS: Mapping[str, int] = {}


class Exact(NamedTuple):
    """A scheme, and how good it is by its table.

    Attributes:
        scheme: of the grouped layers.
        loss: predicted: what the layers' losses add up to.
        gap: share of the loss that a better scheme could save at most; 0: there is none.
    """

    scheme: Scheme
    loss: float
    gap: float


def exact_scheme(
    layers: Iterable[LayerSpec],
    table: LossTable,
    budgets: Sequence[Budget],
    *,
    seconds: float = SECONDS,
) -> Exact:
    """Returns the scheme of the least total loss within all budgets.

    No layer of it can go to its next candidate without breaking a budget.

    Args:
        layers: as `find_layers` gives them.
        table: the loss of every layer and candidate; what rises with n is made level first.
        budgets: one or several, of these layers.
        seconds: after which the solver stops.

    Raises:
        InputError: the table lacks a layer or a candidate; a budget is out of reach, or all
            together are.
    """
    layers = tuple(layers)
    _require_whole(layers, table, budgets)
    for budget in budgets:
        require_reachable(layers, budget)
    found = within_bounds(layers, table, budgets, seconds=seconds)
    if found is None:
        raise InputError(_not_together(layers, budgets, seconds))
    return found


def _require_whole(
    layers: tuple[LayerSpec, ...], table: LossTable, budgets: Sequence[Budget]
) -> None:
    """Refuses a table without a layer or candidate, and what are no budgets.

    Raises:
        InputError: what is missing, or what came.
    """
    for layer in grouped(layers):
        row = table.get(layer.name, {})
        missing = [n for n in layer.candidates if n not in row]
        if missing:
            raise InputError(
                f"{layer.name}: expected in the table a loss for each of the candidates "
                f"{list(layer.candidates)}, got none for {missing[0]}"
            )
    if isinstance(budgets, Budget) or not all(isinstance(each, Budget) for each in budgets):
        raise InputError(
            f"budgets: expected a list of them, as budget_of makes them, got {budgets!r}"
        )


def require_together(layers: Iterable[LayerSpec], budgets: Sequence[Budget]) -> None:
    """Refuses budgets that no scheme meets together.

    Raises:
        InputError: a budget is out of reach, or with the floor of each beside the others.
    """
    layers = tuple(layers)
    exact_scheme(
        layers, {x.name: dict.fromkeys(x.candidates, 0.0) for x in grouped(layers)}, budgets
    )


def within_bounds(
    layers: Iterable[LayerSpec],
    table: LossTable,
    budgets: Sequence[Budget],
    *,
    least: Mapping[str, int] = NO_BOUNDS,
    most: Mapping[str, int] = NO_BOUNDS,
    seconds: float = SECONDS,
) -> Exact | None:
    """Returns the best scheme with n of a layer within least .. most, None where there is none.

    Args:
        layers: as `find_layers` gives them.
        table: as for `exact_scheme`.
        budgets: one or several, of these layers.
        least: layer name -> smallest n; a layer that has none may take all its candidates.
        most: layer name -> largest n.
        seconds: after which the solver stops.
    """
    layers = tuple(layers)
    choices = {
        layer.name: [
            n
            for n in layer.candidates
            if least.get(layer.name, 1) <= n <= most.get(layer.name, layer.m)
        ]
        for layer in grouped(layers)
    }
    if not all(choices.values()):
        return None
    losses = {name: without_noise(table[name]) for name in choices}
    choice = _choose(layers, choices, losses, budgets, seconds)
    if choice is None:
        return None
    picked = {name: row[i] for (name, row), i in zip(choices.items(), choice.items, strict=True)}
    scheme = filled(layers, choices, losses, budgets, picked)
    loss = math.fsum(losses[name][nm.n] for name, nm in scheme.items())
    return Exact(scheme, loss, choice.gap)


def _choose(
    layers: tuple[LayerSpec, ...],
    choices: Mapping[str, list[int]],
    losses: LossTable,
    budgets: Sequence[Budget],
    seconds: float,
) -> Choice | None:
    if not choices:
        return (
            Choice((), 0.0)
            if all(total_cost(layers, b.cost) <= b.allowed for b in budgets)
            else None
        )
    costs, allowed = [], []
    for budget in budgets:
        rows, left = _in_integers(layers, choices, budget)
        costs.append(rows)
        allowed.append(left)
    wanted = [[losses[name][n] for n in row] for name, row in choices.items()]
    return least_loss(wanted, costs, allowed, seconds=seconds)


def _in_integers(
    layers: tuple[LayerSpec, ...], choices: Mapping[str, list[int]], budget: Budget
) -> tuple[list[list[int]], int]:
    """Returns the cost of each layer and candidate, and what is left beside the dense layers."""
    movable = grouped(layers)
    rows = [[Fraction(budget.cost(layer, n)) for n in choices[layer.name]] for layer in movable]
    beside = total_cost([layer for layer in layers if layer.groups is None], budget.cost)
    unit = math.lcm(*(cost.denominator for row in rows for cost in row))
    whole = [[int(cost * unit) for cost in row] for row in rows]
    return whole, math.floor((budget.allowed - beside) * unit)


def filled(
    layers: tuple[LayerSpec, ...],
    choices: Mapping[str, list[int]],
    losses: LossTable,
    budgets: Sequence[Budget],
    n: dict[str, int],
) -> Scheme:
    """Raises layers to their next candidate while the budgets allow it, what saves most first.

    Args:
        layers: as `find_layers` gives them.
        choices: layer name -> the n that it may take, rising.
        losses: layer name -> {n: loss}, falling.
        budgets: of these layers.
        n: layer name -> one of its choices; changed in place.
    """
    left: list[Number] = [
        budget.allowed - total_cost(layers, budget.cost, _scheme(layers, n)) for budget in budgets
    ]
    while True:
        fitting = []
        for layer in grouped(layers):
            for low, high in pairwise(choices[layer.name]):
                prices = [budget.cost(layer, high) - budget.cost(layer, low) for budget in budgets]
                fits = all(price <= rest for price, rest in zip(prices, left, strict=True))
                if low == n[layer.name] and fits:
                    saved = losses[layer.name][low] - losses[layer.name][high]
                    fitting.append((saved, layer.name, high, prices))
        if not fitting:
            return _scheme(layers, n)
        _, name, high, prices = max(fitting, key=lambda step: step[0])
        n[name] = high
        left = [rest - price for rest, price in zip(left, prices, strict=True)]


def _scheme(layers: Iterable[LayerSpec], n: Mapping[str, int]) -> dict[str, NM]:
    return {layer.name: NM(n[layer.name], layer.m) for layer in grouped(layers)}


def _not_together(layers: tuple[LayerSpec, ...], budgets: Sequence[Budget], seconds: float) -> str:
    """Names for each budget the lowest share that it can have where all others are met."""
    floors = []
    for budget in budgets:
        others = [other for other in budgets if other is not budget]
        costs = {
            layer.name: {n: float(budget.cost(layer, n)) for n in layer.candidates}
            for layer in grouped(layers)
        }
        choices = {layer.name: list(layer.candidates) for layer in grouped(layers)}
        choice = _choose(layers, choices, costs, others, seconds)
        if choice is not None:
            n = {name: row[i] for (name, row), i in zip(choices.items(), choice.items, strict=True)}
            lowest = total_cost(layers, budget.cost, _scheme(layers, n))
            share = float(lowest / total_cost(layers, budget.cost))
            floors.append(
                f"{_objective(budget)} budget {budget.share:g} has its floor at {share:.4f}"
            )
    return "the budgets cannot be met together; beside the others " + ", ".join(floors)


def _objective(budget: Budget) -> str:
    if budget.cost is count_weights:
        return "the params"
    return "the macs" if budget.cost is count_macs else "the cost table's"

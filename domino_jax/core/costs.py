"""What a scheme costs, exactly, and the lowest cost that the candidates allow.

A cost is a function of a layer and the number n of weights it keeps of every M (None: dense).
Counts are Python integers, because multiply-adds overflow int32; measured costs are Fractions.
The denominator of every budget is all convolution and matrix-product layers found, those kept
dense included; biases, norms and tables that are only looked up are outside.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from domino_jax.core.amounts import parse_amount
from domino_jax.core.errors import InputError
from domino_jax.core.files import read_json
from domino_jax.core.layers import LayerSpec, counted, inputs_of
from domino_jax.core.paths import require_known
from domino_jax.core.scheme import Scheme, require_scheme

Number = int | Fraction
Cost = Callable[[LayerSpec, int | None], Number]


@dataclass(frozen=True)
class Budget:
    """What a scheme may cost; made once by `budget_of`, and passed on.

    Attributes:
        share: of the dense cost, in (0, 1); to show and for rules in floats.
        cost: what is counted.
        allowed: the most that a scheme of these layers may cost, exactly.
    """

    share: float
    cost: Cost
    allowed: Number


def as_fraction(value: float) -> Fraction:
    """Reads a float as the decimal it is written as: 0.2 is 1/5."""
    return Fraction(repr(float(value)))


def count_weights(layer: LayerSpec, n: int | None = None) -> int:
    """Counts the weights that a layer keeps; a short last group keeps at most what it has."""
    if n is None or layer.reason:
        return layer.size
    inputs = inputs_of(layer)
    full, rest = divmod(inputs, layer.m)
    return layer.size // inputs * (full * n + min(n, rest))


def count_macs(layer: LayerSpec, n: int | None = None) -> int:
    """Counts the multiply-adds of one example that a layer keeps, rounded up if shares are odd."""
    return -(-layer.macs * count_weights(layer, n) // layer.size)


def budget_of(
    layers: Iterable[LayerSpec],
    budget: "float | Fraction | str | Budget",
    cost: Cost = count_weights,
    *,
    movable: bool = False,
) -> Budget:
    """Makes the budget of layers; a `Budget` is checked and returned as it is.

    Args:
        layers: as `find_layers` gives them.
        budget: share of the dense cost, or a count ('5.0M', '227M MACs'); see `amounts`.
        cost: what is counted.
        movable: the budget is of the grouped layers alone; the others come on top, dense.

    Raises:
        InputError: the budget is no share in (0, 1) and no count below the dense cost, counts
            something else than the cost, or is a `Budget` that counts another cost.
    """
    if isinstance(budget, Budget):
        if cost not in (budget.cost, count_weights):
            raise InputError("budget: expected a share beside a cost, got a Budget, which has one")
        return budget
    layers, amount = tuple(layers), parse_amount(budget)
    counts = {"macs": count_macs, "params": count_weights}
    if amount.unit and counts[amount.unit] is not cost:
        raise InputError(
            f"budget: expected a count of what the objective counts, got {budget!r}: set the "
            f"objective to {amount.unit!r}"
        )
    dense = total_cost(layers, cost)
    beside = total_cost([layer for layer in layers if layer.groups is None], cost) if movable else 0
    allowed = beside + (amount.value * (dense - beside) if amount.is_share else amount.value)
    if not allowed < dense:
        raise InputError(f"budget: expected less than the dense {shown(dense)}, got {budget!r}")
    share = budget if isinstance(budget, float) and not movable else float(allowed / dense)
    return Budget(share, cost, allowed)


def require_share(what: str, value: float) -> None:
    """Refuses what is no share in (0, 1].

    Raises:
        InputError: what it is, and what came.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise InputError(f"{what}: expected a share in (0, 1], got {value!r}")


def is_real(value: Any) -> bool:
    """Says whether something is a number that a float can be: not NaN, nor an int beyond floats."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def table_cost(table: Mapping[str, Any], layers: Iterable[LayerSpec]) -> Cost:
    """Makes a cost of measured numbers, such as milliseconds.

    Args:
        table: path -> {n: cost} for every candidate and M, or path -> cost of the dense layer,
            which then scales with n/m. Layers that stay dense may be absent: they cost nothing.
        layers: the layers that the table is for.

    Raises:
        InputError: a layer or candidate is missing, or a path or a number is wrong.
    """
    by_name = {layer.name: layer for layer in counted(layers)}
    require_known(table, list(by_name), what="layer in the cost table")
    costs: dict[str, dict[int | None, Fraction]] = {}
    for name, layer in by_name.items():
        if name not in table:
            if not layer.reason:
                raise InputError(f"cost table: no entry for {name}; it has {len(table)} entries")
            costs[name] = {None: Fraction(0)}
        else:
            costs[name] = _entry(layer, table[name])
    if not any(cost[None] for cost in costs.values()):
        raise InputError("cost table: the dense network costs 0, so no share of it can be kept")
    return lambda layer, n: costs[layer.name][None if layer.reason or n == layer.m else n]


def read_table(path: str, layers: Iterable[LayerSpec]) -> Cost:
    """Reads a JSON cost table.

    Raises:
        InputError: the file is missing or no such table.
    """
    try:
        table = read_json(path)
    except InputError as error:
        raise InputError(
            f"objective: expected 'params', 'macs' or the path of a JSON cost table; {error}"
        ) from None
    if not isinstance(table, dict):
        raise InputError(
            f"cost table {path}: expected an object {{path: {{n: cost}}}}, got a "
            f"{type(table).__name__}"
        )
    return table_cost(table, layers)


def total_cost(layers: Iterable[LayerSpec], cost: Cost, scheme: Scheme | None = None) -> Number:
    """Adds up the cost of a scheme; of the dense network if there is none.

    A layer that stays dense counts in full, whether the scheme names it or not.

    Raises:
        InputError: it is no scheme, or lacks a grouped layer.
    """
    if scheme is not None:
        require_scheme(scheme)
    return sum(cost(layer, _kept(layer, scheme)) for layer in counted(layers))


def _kept(layer: LayerSpec, scheme: Scheme | None) -> int | None:
    """Returns the n of a layer under a scheme, None where it is dense."""
    if scheme is None or layer.groups is None:
        return None
    if layer.name not in scheme:
        raise InputError(f"{layer.name}: expected its N:M in the scheme, got none")
    return scheme[layer.name].n


def kept_share(layers: Iterable[LayerSpec], cost: Cost, scheme: Scheme) -> float:
    """Returns the cost of a scheme as a share of that of the dense network."""
    layers = tuple(layers)
    return float(total_cost(layers, cost, scheme) / total_cost(layers, cost))


def lowest_cost(layers: Iterable[LayerSpec], cost: Cost) -> Number:
    """Adds up the lowest cost of each layer over its candidates."""
    return sum(
        min(cost(layer, n) for n in layer.candidates) if not layer.reason else cost(layer, None)
        for layer in counted(layers)
    )


def _entry(layer: LayerSpec, cost: Any) -> dict[int | None, Fraction]:
    needed = layer.candidates if not layer.reason else ()
    cost_by_n: dict[int | None, Fraction]
    if isinstance(cost, Mapping):
        known_costs = {_count(layer, n): _number(layer, value) for n, value in cost.items()}
        missing = [n for n in needed if n not in known_costs]
        if missing or not known_costs:
            raise InputError(
                f"cost table: {layer.name}: no cost for n = {missing}; has {[*known_costs]}"
            )
        cost_by_n = {n: known_costs[n] for n in needed}
        cost_by_n[None] = known_costs[layer.m] if needed else known_costs[max(known_costs)]
    else:
        dense = _number(layer, cost)
        cost_by_n = {n: dense * n / layer.m for n in needed}
        cost_by_n[None] = dense
    return cost_by_n


def _count(layer: LayerSpec, n: Any) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", str(n), re.ASCII):
        raise InputError(f"cost table: {layer.name}: expected {{n: cost}}, got n = {n!r}")
    return int(n)


def _number(layer: LayerSpec, value: Any) -> Fraction:
    if not is_real(value) or value < 0:
        raise InputError(
            f"cost table: {layer.name}: expected a finite number of 0 or more, got {value!r}"
        )
    return as_fraction(value)


def shown(value: Number) -> str:
    """Writes a cost for people."""
    return f"{int(value):,}" if value == int(value) else f"{float(value):,.6g}"

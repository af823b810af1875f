"""The least total loss within budgets, against trying every scheme; to the last weight."""

import itertools
from fractions import Fraction

import made
import numpy as np
import pytest

from domino_jax.allocate.exact import exact_scheme, within_bounds
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import (
    Budget,
    budget_of,
    count_macs,
    count_weights,
    table_cost,
    total_cost,
)
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))


def network(seed, count=4):
    """Layers of random sizes and candidates, one that stays dense, and a table that falls."""
    rng = np.random.default_rng(seed)
    layers = [made.layer("stem", (3, 8), IO, 24 * 64, reason="3 inputs")]
    table = {}
    for i in range(count):
        shape = (int(rng.integers(1, 9)) * 8, int(rng.integers(1, 50)))
        m = int(rng.choice([4, 8]))
        below = rng.choice(np.arange(1, m), size=rng.integers(1, 4), replace=False)
        candidates = (*sorted(below.tolist()), m)
        uses = int(rng.integers(1, 40))
        layers.append(made.layer(f"l{i}", shape, IO, shape[0] * shape[1] * uses, candidates))
        losses = np.sort(rng.exponential(size=len(candidates)))[::-1].tolist()
        table[f"l{i}"] = dict(zip(candidates, losses, strict=True))
    return tuple(layers), table


def all_schemes(layers):
    movable = [layer for layer in layers if layer.groups]
    for picked in itertools.product(*(layer.candidates for layer in movable)):
        yield {layer.name: NM(n, layer.m) for layer, n in zip(movable, picked, strict=True)}


def loss_of(table, scheme):
    return sum(table[name][nm.n] for name, nm in scheme.items())


def within(layers, scheme, budgets):
    return all(total_cost(layers, b.cost, scheme) <= b.allowed for b in budgets)


@pytest.mark.parametrize("seed", range(12))
def test_no_scheme_within_the_budgets_loses_less(seed):
    layers, table = network(seed)
    rng = np.random.default_rng(seed)
    budgets = [budget_of(layers, float(rng.uniform(0.6, 0.9)))]
    if seed % 2:
        budgets.append(budget_of(layers, float(rng.uniform(0.7, 0.9)), count_macs))
    allowed = [s for s in all_schemes(layers) if within(layers, s, budgets)]
    if not allowed:
        with pytest.raises(InputError):
            exact_scheme(layers, table, budgets)
        return
    found = exact_scheme(layers, table, budgets)
    assert within(layers, found.scheme, budgets)
    assert found.gap == 0
    assert found.loss == pytest.approx(loss_of(table, found.scheme))
    assert found.loss == pytest.approx(min(loss_of(table, s) for s in allowed))


@pytest.mark.parametrize("seed", range(12))
def test_no_layer_can_take_its_next_candidate(seed):
    layers, table = network(seed, count=12)
    if seed % 2:  # several n lose the same: the solver alone would stop early
        table = {name: dict.fromkeys(row, 1.0) for name, row in table.items()}
    budgets = [budget_of(layers, 0.8), budget_of(layers, 0.85, count_macs)]
    scheme = exact_scheme(layers, table, budgets).scheme
    assert list(scheme) == [layer.name for layer in layers if layer.groups]
    assert within(layers, scheme, budgets)
    for layer in layers:
        higher = [n for n in layer.candidates if n > scheme[layer.name].n] if layer.groups else []
        if higher:
            raised = {**scheme, layer.name: NM(higher[0], layer.m)}
            assert not within(layers, raised, budgets), layer.name


def test_rising_losses_are_made_level_first():
    layers = (made.layer("a", (8, 8), IO, 64, (1, 2, 4)), made.layer("b", (8, 8), IO, 64, (2, 4)))
    table = {"a": {1: 1.0, 2: 1.5, 4: 0.0}, "b": {2: 0.9, 4: 0.0}}
    found = exact_scheme(layers, table, [budget_of(layers, 0.75)])
    assert found.scheme == {"a": NM(4, 4), "b": NM(2, 4)}
    found = exact_scheme(layers, table, [budget_of(layers, 0.5)])
    assert found.scheme == {"a": NM(2, 4), "b": NM(2, 4)}  # filled: 1.5 counts as 1
    assert found.loss == 1.9


def test_a_budget_of_exactly_half_is_met_exactly():
    layers = tuple(made.layer(f"l{i}", (16, 7), IO, 1, tuple(range(1, 17))) for i in range(9))
    rng = np.random.default_rng(0)
    table = {x.name: dict(zip(x.candidates, rng.exponential(size=16), strict=True)) for x in layers}
    half = Fraction(total_cost(layers, count_weights), 2)
    scheme = exact_scheme(layers, table, [Budget(0.5, count_weights, half)]).scheme
    assert total_cost(layers, count_weights, scheme) == half


def test_costs_of_a_table_are_exact():
    layers = (made.layer("a", (8, 8), IO, 64, (2, 4)), made.layer("b", (8, 8), IO, 64, (2, 4)))
    cost = table_cost({"a": {"2": 0.1, "4": 0.2}, "b": {"2": 0.1, "4": 0.3}}, layers)
    table = {"a": {2: 1.0, 4: 0.0}, "b": {2: 2.0, 4: 0.0}}
    # 0.1 + 0.3 is 4/5 of 0.5: in floats it would be above.
    assert exact_scheme(layers, table, [budget_of(layers, 0.8, cost)]).scheme["b"] == NM(4, 4)
    assert exact_scheme(layers, table, [budget_of(layers, 0.79, cost)]).scheme["b"] == NM(2, 4)


def test_bounds_are_kept():
    layers, table = network(3)
    budget = budget_of(layers, 0.8)
    first = exact_scheme(layers, table, [budget]).scheme
    name = max(first, key=lambda each: first[each].n)
    lower = {name: first[name].n - 1}
    assert within_bounds(layers, table, [budget], most=lower).scheme[name].n <= lower[name]
    least = {layer.name: layer.m for layer in layers if layer.groups}
    assert within_bounds(layers, table, [budget], least=least) is None


def test_a_budget_out_of_reach_is_refused():
    layers, table = network(0)
    with pytest.raises(InputError, match=r"^budget 0.01 is out of reach"):
        exact_scheme(layers, table, [budget_of(layers, 0.01)])


def test_two_budgets_that_exclude_each_other_name_each_floor():
    layers = (made.layer("a", (8, 8), IO, 64, (2, 4)), made.layer("b", (8, 8), IO, 64, (2, 4)))
    # This machine is faster on dense layers.
    slow = table_cost({"a": {"2": 3, "4": 1}, "b": {"2": 3, "4": 1}}, layers)
    table = {"a": {2: 1.0, 4: 0.0}, "b": {2: 2.0, 4: 0.0}}
    budgets = [budget_of(layers, 0.6), Budget(0.99, slow, Fraction(4))]
    with pytest.raises(InputError) as error:
        exact_scheme(layers, table, budgets)
    assert str(error.value) == (
        "the budgets cannot be met together; beside the others the params budget 0.6 has its floor "
        "at 0.7500, the cost table's budget 0.99 has its floor at 3.0000"
    )


def test_tables_and_budgets_that_are_none():
    layers, table = network(0)
    budgets, name = [budget_of(layers, 0.5)], next(iter(table))
    lacking = {**table, name: {n: x for n, x in table[name].items() if n > min(table[name])}}
    with pytest.raises(InputError, match=rf"^{name}: .* for each of the candidates .*, got none"):
        exact_scheme(layers, lacking, budgets)
    with pytest.raises(InputError, match="for each of the candidates"):
        exact_scheme(layers, {}, budgets)
    for wrong in ([0.5], budgets[0]):
        with pytest.raises(InputError, match=r"^budgets: expected a list of them"):
            exact_scheme(layers, table, wrong)

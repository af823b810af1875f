"""What holds of any allocation: within the budget, no better exchange, monotone in the budget."""

import itertools
from fractions import Fraction

import made
from hypothesis import assume, given
from hypothesis import strategies as st

from domino_jax.allocate.erk import erk_scheme
from domino_jax.allocate.exact import exact_scheme
from domino_jax.allocate.uniform import uniform_scheme
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, count_macs, count_weights, lowest_cost, total_cost
from domino_jax.core.layers import grouped
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))


@st.composite
def networks(draw, most=4):
    """Layers of random sizes, uses and candidates, one that stays dense, and their losses."""
    layers = [made.layer("stem", (3, 8), IO, 24 * 64, reason="3 inputs")]
    table = {}
    for number in range(draw(st.integers(1, most))):
        m = draw(st.sampled_from((4, 8)))
        below = draw(st.sets(st.integers(1, m - 1), min_size=1, max_size=3))
        candidates = (*sorted(below), m)
        inputs, outputs = draw(st.integers(1, 9)) * m, draw(st.integers(1, 40))
        macs = inputs * outputs * draw(st.integers(1, 30))
        layers.append(made.layer(f"l{number}", (inputs, outputs), IO, macs, candidates))
        # Whole numbers: sums are exact, and ties are ties.
        losses = draw(
            st.lists(st.integers(0, 9), min_size=len(candidates), max_size=len(candidates))
        )
        falling = sorted(map(float, losses), reverse=True)
        table[f"l{number}"] = dict(zip(candidates, falling, strict=True))
    return tuple(layers), table


COSTS = st.sampled_from((count_weights, count_macs))
SHARES = st.integers(1, 99).map(lambda percent: Fraction(percent, 100))


def budget_in_reach(layers, share, cost):
    """Brings a share of 0 to 1 into what the candidates reach."""
    dense, lowest = (Fraction(of) for of in (total_cost(layers, cost), lowest_cost(layers, cost)))
    budget = budget_of(layers, lowest / dense + share * (1 - lowest / dense), cost)
    assume(lowest <= budget.allowed)
    return budget


def loss_of(table, scheme):
    return sum(table[name][nm.n] for name, nm in scheme.items())


def cost_of(layers, budget, scheme):
    return total_cost(layers, budget.cost, scheme)


def moved(layers, scheme):
    """Yields every scheme that differs in one layer, or in two: a single exchange."""
    movable = grouped(layers)
    others = [
        {layer.name: NM(n, layer.m)}
        for layer in movable
        for n in layer.candidates
        if n != scheme[layer.name].n
    ]
    for count in (1, 2):
        for changes in itertools.combinations(others, count):
            merged = dict(item for change in changes for item in change.items())
            if len(merged) == count:
                yield {**scheme, **merged}


@given(networks(most=3), SHARES, COSTS)
def test_the_exact_scheme_is_that_of_brute_force(network, share, cost):
    layers, table = network
    budget = budget_in_reach(layers, share, cost)
    found = exact_scheme(layers, table, [budget])
    movable = grouped(layers)
    schemes = (
        {layer.name: NM(n, layer.m) for layer, n in zip(movable, picked, strict=True)}
        for picked in itertools.product(*(layer.candidates for layer in movable))
    )
    within = [each for each in schemes if cost_of(layers, budget, each) <= budget.allowed]
    assert found.scheme in within
    assert found.loss == loss_of(table, found.scheme) == min(loss_of(table, s) for s in within)
    assert found.gap == 0


@given(networks(most=9), SHARES, COSTS)
def test_no_single_exchange_is_better_and_no_next_candidate_fits(network, share, cost):
    layers, table = network
    budget = budget_in_reach(layers, share, cost)
    scheme = exact_scheme(layers, table, [budget]).scheme
    assert cost_of(layers, budget, scheme) <= budget.allowed
    for other in moved(layers, scheme):
        if cost_of(layers, budget, other) <= budget.allowed:
            assert loss_of(table, other) >= loss_of(table, scheme)
            assert any(other[name].n < scheme[name].n for name in scheme)


@given(networks(), SHARES, SHARES, COSTS)
def test_more_budget_never_keeps_less(network, share, other, cost):
    layers, table = network
    less, more = (budget_in_reach(layers, each, cost) for each in sorted((share, other)))
    assert less.allowed <= more.allowed
    small, large = (exact_scheme(layers, table, [budget]) for budget in (less, more))
    assert large.loss <= small.loss
    if large.loss < small.loss:  # else any of several equally good ones may come
        assert cost_of(layers, more, large.scheme) > less.allowed
    small, large = (uniform_scheme(layers, budget) for budget in (less, more))
    assert all(large[name].n >= nm.n for name, nm in small.items())


@given(networks(), SHARES, SHARES, COSTS)
def test_more_budget_never_keeps_less_by_erk(network, share, other, cost):
    layers, _ = network
    less, more = (budget_in_reach(layers, each, cost) for each in sorted((share, other)))
    small, large = (erk_scheme(layers, budget) for budget in (less, more))
    for budget, scheme in ((less, small), (more, large)):
        assert cost_of(layers, budget, scheme) <= budget.allowed
    assert cost_of(layers, less, small) <= cost_of(layers, more, large)

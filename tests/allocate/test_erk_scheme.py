"""Rounded ERK schemes: by hand, against a search over all scales, and as the budget has it."""

import itertools
import math
from fractions import Fraction

import made
import numpy as np
import pytest

from domino_jax.allocate.erk import erk_scheme, finished_by_scale
from domino_jax.core import costs as budget
from domino_jax.core.canonical import Axes
from domino_jax.core.erk import erk
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import NM

IO, HWIO = Axes((), (), (0,), (1,)), Axes((), (0, 1), (2,), (3,))
FOURS, EIGHTS = (1, 2, 4), (1, 2, 4, 8)


def layer(name, shape, candidates, macs=None, reason=""):
    axes = HWIO if len(shape) == 4 else IO
    return made.layer(name, shape, axes, macs or math.prod(shape), candidates, reason)


# At scale 1 the densities are 8/16 and 12/32: 'small' goes up at scales 3/4 (from 1 of 4 to 2) and
# 3/2 (to 4), 'large' at 1 and 2.
SMALL, LARGE = layer("small", (4, 4), FOURS), layer("large", (8, 4), FOURS)
PAIR = (LARGE, SMALL)


@pytest.mark.parametrize(
    ("kept", "small", "large"),
    [
        (12, 1, 1),
        (15, 1, 1),
        (16, 2, 1),
        (23, 2, 1),
        (24, 2, 2),
        (31, 2, 2),
        (32, 4, 2),
        (47, 4, 2),
    ],
)
def test_two_layers_by_hand(kept, small, large):
    found = erk_scheme(PAIR, kept / 48 + 1e-9)
    assert found == {"large": NM(large, 4), "small": NM(small, 4)}
    assert list(found) == ["large", "small"]


def test_halfway_is_between_the_candidates():
    # Equal densities: 'a' goes up at 3.5 of 8, 'b' at 4.5, although to less.
    layers = (layer("a", (8, 4), (1, 6, 8)), layer("b", (8, 4), (4, 5, 8)))
    for kept, a, b in ((39, 1, 4), (40, 6, 4), (44, 6, 5), (55, 6, 5), (56, 6, 8)):
        found = erk_scheme(layers, kept / 64 + 1e-9)
        assert (found["a"].n, found["b"].n) == (a, b)


def test_layers_that_cannot_move_are_dense():
    layers = (*PAIR, layer("stem", (3, 4), (), reason="input size 3"), layer("one", (4, 1), (4,)))
    found = erk_scheme(layers, (24 + 16) / 64 + 1e-9)
    assert found == {"large": NM(2, 4), "small": NM(2, 4), "one": NM(4, 4)}


def test_layers_at_the_same_scale_go_up_in_their_order():
    same = tuple(layer(name, (4, 4), FOURS) for name in "abc")
    assert [nm.n for nm in erk_scheme(same, 0.25).values()] == [1, 1, 1]
    assert [nm.n for nm in erk_scheme(same, 0.42).values()] == [2, 2, 1]  # 20 of 48 weights
    assert [nm.n for nm in erk_scheme(same, 0.7).values()] == [4, 2, 2]
    # A dearer one is passed over.
    dear = (layer("a", (4, 4), FOURS, 160), *same[1:])
    found = erk_scheme(dear, 0.3, cost=budget.count_macs)  # 57 of 192, of which 48 are the least
    assert [found[name].n for name in "abc"] == [1, 2, 2]


def rounded(spec, density):
    """Rounds to the nearest candidate, the upper one of two that are as near."""
    distance = {n: (abs(Fraction(n, spec.m) - density), -n) for n in spec.candidates}
    return min(spec.candidates, key=distance.get)


def by_brute_force(layers, share, cost):
    """Tries very many scales from the largest one down; without the last layers to go up."""
    allowed = budget.as_fraction(share) * budget.total_cost(layers, cost)
    for scale in (Fraction(i, 100) for i in range(8000, 0, -1)):
        scheme = {
            s.name: NM(rounded(s, min(1, scale * Fraction(sum(s.shape), s.size))), s.m)
            for s in layers
            if not s.reason
        }
        if budget.total_cost(layers, cost, scheme) <= allowed:
            return scheme
    raise AssertionError("no scale is small enough")


NET = (
    layer("stem", (3, 3, 3, 8), (), 4000, "input size 3 is no multiple of 8"),
    layer("a", (3, 3, 8, 16), (1, 2, 7, 8), 9000),
    layer("b", (3, 3, 16, 32), (1, 3, 5, 6, 8), 7000),
    layer("c", (1, 1, 4, 8), FOURS, 300),
    layer("d", (32, 10), (1, 2, 3, 5, 8), 320),
)


@pytest.mark.parametrize("cost", [budget.count_weights, budget.count_macs])
@pytest.mark.parametrize("share", [0.35, 0.5, 0.61, 0.83, 0.99])
def test_against_brute_force(cost, share):
    found = erk_scheme(NET, share, cost=cost)
    assert found == by_brute_force(NET, share, cost)
    dense = budget.total_cost(NET, cost)
    assert budget.total_cost(NET, cost, found) <= budget.as_fraction(share) * dense
    n_by_path(found, NET)


def test_random_networks_round_the_densities_of_erk():
    """Some sparsity's own ERK densities, rounded, are the scheme."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        shapes = [(8 * int(rng.integers(1, 9)), int(rng.integers(4, 64))) for _ in range(4)]
        layers = tuple(layer(f"l{i}", shape, EIGHTS) for i, shape in enumerate(shapes))
        found = erk_scheme(layers, 0.4)
        kept = budget.total_cost(layers, budget.count_weights, found)
        schemes = []
        for sparsity in np.linspace(0.9, 0.2, 2000):
            zeros = erk({s.name: s.shape for s in layers}, float(sparsity))
            schemes.append({s.name: NM(rounded(s, 1 - zeros[s.name]), 8) for s in layers})
        assert found in schemes
        costs = [budget.total_cost(layers, budget.count_weights, scheme) for scheme in schemes]
        allowed = 0.4 * budget.total_cost(layers, budget.count_weights)
        assert kept == max(c for c in costs if c <= allowed)


def test_a_cost_that_does_not_rise_with_n():
    table = {"large": {1: 9, 2: 1, 4: 6}, "small": {1: 1, 2: 2, 4: 4}}
    cost = budget.table_cost(table, PAIR)
    # All at 1 costs 10; with 2:4 in both 3, with 4:4 in the small one 5.
    assert erk_scheme(PAIR, 0.5, cost=cost) == {"large": NM(2, 4), "small": NM(4, 4)}
    assert erk_scheme(PAIR, 0.4, cost=cost) == {"large": NM(2, 4), "small": NM(2, 4)}


def test_the_dearest_scale_that_fits_is_taken_exactly():
    """Budgets at the exact cost of a scheme give that scheme, those a weight below do not."""
    costs = set()
    for a, b in itertools.product(range(12, 48), repeat=2):
        costs.add(
            budget.total_cost(PAIR, budget.count_weights, erk_scheme(PAIR, (a + b / 48) / 48))
        )
    assert costs == {12, 16, 24, 32}
    for cost in costs:
        assert (
            budget.total_cost(PAIR, budget.count_weights, erk_scheme(PAIR, cost / 48 + 1e-12))
            == cost
        )


def test_out_of_reach():
    with pytest.raises(ValueError, match=r"out of reach: the candidates allow 0\.2500 \(12 of 48"):
        erk_scheme(PAIR, 0.2)
    with pytest.raises(ValueError, match="expected a share"):
        erk_scheme(PAIR, 0.0)
    table = {"large": {1: 9, 2: 9, 4: 1}, "small": {1: 1, 2: 9, 4: 9}}
    with pytest.raises(ValueError, match=r"budget 0\.5 is out of reach of ERK schemes, not of"):
        erk_scheme(PAIR, 0.5, cost=budget.table_cost(table, PAIR))


@pytest.mark.parametrize("share", [0.3, 0.45, 0.62, 0.8])
def test_the_finish_raises_layers_until_no_next_candidate_fits(share):
    layers = [layer(f"l{i}", (8 * (i + 1), 5 + 3 * i), (1, 2, 4, 8)) for i in range(5)]
    limit = budget.budget_of(layers, share)
    before = erk_scheme(layers, share)
    after = finished_by_scale(layers, before, [limit])
    assert all(after[name].n >= nm.n for name, nm in before.items())
    spent = budget.total_cost(layers, limit.cost, after)
    assert spent <= limit.allowed
    for each in layers:
        n = after[each.name].n
        if n < 8:
            raised = {**after, each.name: NM(2 * n, 8)}
            assert budget.total_cost(layers, limit.cost, raised) > limit.allowed

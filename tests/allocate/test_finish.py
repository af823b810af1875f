"""The exact finish: what a search leaves of its budget is spent, what it is above by is saved."""

import itertools

import jax.numpy as jnp
import made
import numpy as np
import pytest

from domino_jax.allocate.finish import finished, magnitude_table
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, total_cost
from domino_jax.core.masked import make_masks
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))
ALL = (1, 2, 4, 8)
SIZES = {"a": 3, "b": 8, "c": 5, "d": 2}
LAYERS = tuple(made.layer(name, (16, size), IO, 16 * size, ALL) for name, size in SIZES.items())
RNG = np.random.default_rng(0)
PARAMS = {x.name: jnp.asarray(RNG.normal(size=x.shape), jnp.float32) for x in LAYERS}
TABLE = magnitude_table(LAYERS, PARAMS)


def scheme_of(*n):
    return {layer.name: NM(k, 8) for layer, k in zip(LAYERS, n, strict=True)}


def loss_of(scheme):
    return sum(TABLE[name][nm.n] for name, nm in scheme.items())


def best(before, budget, fits):
    """Tries all schemes on one side of another."""
    schemes = (scheme_of(*n) for n in itertools.product(ALL, repeat=4))
    allowed = [
        scheme
        for scheme in schemes
        if all(fits(scheme[name].n, nm.n) for name, nm in before.items())
        and total_cost(LAYERS, budget.cost, scheme) <= budget.allowed
    ]
    return min(map(loss_of, allowed))


def test_the_table_is_the_share_of_squares_that_masks_remove():
    for layer in LAYERS:
        square = np.square(np.asarray(PARAMS[layer.name]))
        for n in ALL:
            mask = make_masks(PARAMS, LAYERS, dict.fromkeys(PARAMS, n))[layer.name]
            share = square[~np.asarray(mask)].sum() / square.sum()
            assert TABLE[layer.name][n] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.4, 0.55, 0.8])
def test_what_is_left_goes_where_most_is_saved(share):
    before, budget = scheme_of(2, 2, 1, 4), budget_of(LAYERS, share)
    after = finished(LAYERS, before, [budget], TABLE)
    assert all(after[name].n >= nm.n for name, nm in before.items())
    assert total_cost(LAYERS, budget.cost, after) <= budget.allowed
    assert loss_of(after) == pytest.approx(best(before, budget, lambda new, old: new >= old))
    for name, nm in after.items():
        if nm.n < 8:
            more = {**after, name: NM(2 * nm.n, 8)}
            assert total_cost(LAYERS, budget.cost, more) > budget.allowed


def test_what_is_above_is_saved_where_it_costs_least():
    before = scheme_of(4, 4, 4, 4)
    budget = budget_of(LAYERS, 0.48)
    after = finished(LAYERS, before, [budget], TABLE)
    assert all(after[name].n <= nm.n for name, nm in before.items())
    assert total_cost(LAYERS, budget.cost, after) <= budget.allowed
    assert loss_of(after) == pytest.approx(best(before, budget, lambda new, old: new <= old))


def test_a_scheme_far_above_its_budget_stays_a_failure():
    assert finished(LAYERS, scheme_of(4, 4, 4, 4), [budget_of(LAYERS, 0.47)], TABLE) is None

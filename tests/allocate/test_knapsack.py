"""One item a row: the least loss that any choice has, never above a limit."""

import itertools
import time

import numpy as np
import pytest

from domino_jax.allocate import knapsack
from domino_jax.allocate.knapsack import least_loss

SECONDS = 60.0


def brute(losses, costs, allowed):
    """Tries every choice; the least loss, None where none is allowed."""
    found = None
    for items in itertools.product(*(range(len(row)) for row in losses)):
        used = [sum(row[i] for row, i in zip(cost, items, strict=True)) for cost in costs]
        if all(use <= most for use, most in zip(used, allowed, strict=True)):
            loss = sum(row[i] for row, i in zip(losses, items, strict=True))
            found = loss if found is None else min(found, loss)
    return found


def used_by(costs, items):
    return [sum(row[i] for row, i in zip(cost, items, strict=True)) for cost in costs]


def random_case(seed, limits, digits=None):
    """Rows of 1 to 5 items; costs that need not rise; sometimes losses with ties."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 6, size=rng.integers(2, 6))
    largest = 10 ** (digits or int(rng.integers(1, 10)))
    losses = [rng.exponential(1, k).round(1 if seed % 3 == 0 else 12).tolist() for k in widths]
    costs = [[rng.integers(0, largest, k).tolist() for k in widths] for _ in range(limits)]
    allowed = []
    for cost in costs:
        low, high = sum(map(min, cost)), sum(map(max, cost))
        allowed.append(low + int((high - low) * rng.random()))
    return losses, costs, allowed


@pytest.mark.parametrize("digits", [None, 16])  # those of measured times are many
@pytest.mark.parametrize("limits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_no_choice_is_better(seed, limits, digits):
    losses, costs, allowed = random_case(seed, limits, digits)
    choice = least_loss(losses, costs, allowed, seconds=SECONDS)
    wanted = brute(losses, costs, allowed)
    if wanted is None:
        assert choice is None
        return
    assert choice.gap == 0
    assert all(np.array(used_by(costs, choice.items)) <= allowed)
    loss = sum(row[i] for row, i in zip(losses, choice.items, strict=True))
    assert loss == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("unit", [1, 10**9 + 7, 10**30 + 57])
def test_huge_costs_are_never_above_the_limit_by_one(unit):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 10**6, 40)
    costs = [[int(size) * unit * n + n for n in range(1, 17)] for size in sizes]
    losses = [np.sort(rng.exponential(1, 16))[::-1].tolist() for _ in sizes]
    allowed = sum(row[3] for row in costs)
    for less in (0, 1):
        choice = least_loss(losses, [costs], [allowed - less], seconds=SECONDS)
        assert used_by([costs], choice.items)[0] <= allowed - less


def test_a_limit_of_exactly_one_choice_is_met():
    costs = [[[5, 7], [11, 13]]]
    assert least_loss([[2.0, 0.0], [1.0, 0.0]], costs, [16], seconds=SECONDS).items == (0, 0)
    assert least_loss([[2.0, 0.0], [1.0, 0.0]], costs, [15], seconds=SECONDS) is None


def test_small_losses_beside_a_huge_one_still_count():
    losses = [[1e9, 0.0], [2e-6, 1e-6, 0.0], [3e-6, 1e-6, 0.0]]
    costs = [[[0, 10], [0, 1, 2], [0, 1, 2]]]
    choice = least_loss(losses, costs, [12], seconds=SECONDS)
    assert choice.items == (1, 0, 2) or choice.items == (1, 1, 1)
    assert sum(r[i] for r, i in zip(losses, choice.items, strict=True)) == pytest.approx(2e-6)


def layers_of_a_network(count, seed):
    rng = np.random.default_rng(seed)
    sizes = 2 ** rng.integers(10, 22, count) * rng.integers(1, 10, count)
    decays = rng.uniform(0.2, 0.9, count)[:, None] * np.arange(16)
    losses = rng.lognormal(0, 1.5, count)[:, None] * np.exp(-decays)
    losses = np.sort(losses * rng.lognormal(0, 0.1, (count, 16)))[:, ::-1]
    costs = [[int(size) * n for n in range(1, 17)] for size in sizes]
    return losses.tolist(), costs, sum(row[-1] for row in costs) // 8


def test_300_layers_of_16_candidates_within_10_seconds():
    losses, costs, allowed = layers_of_a_network(300, seed=0)
    began = time.process_time()
    choice = least_loss(losses, [costs], [allowed], seconds=8.0)
    assert time.process_time() - began < 10
    assert used_by([costs], choice.items)[0] <= allowed
    assert choice.gap == 0


def test_out_of_time_it_says_how_far_from_the_least_it_is():
    losses, costs, allowed = layers_of_a_network(300, seed=2)
    hasty = least_loss(losses, [costs], [allowed], seconds=0.0)
    best = least_loss(losses, [costs], [allowed], seconds=SECONDS)
    assert used_by([costs], hasty.items)[0] <= allowed

    def loss(choice):
        return sum(row[i] for row, i in zip(losses, choice.items, strict=True))

    assert loss(hasty) * (1 - hasty.gap) <= loss(best) * (1 + 1e-9)
    assert hasty.gap < 0.02


def test_nothing_is_printed(capfd):
    losses, costs, allowed = layers_of_a_network(60, seed=3)
    least_loss(losses, [costs], [allowed], seconds=SECONDS)
    assert capfd.readouterr().out == ""


def test_several_limits_and_no_choice_in_time(monkeypatch):
    """A choice by price alone is above a limit, and the solver had no time to find another."""
    monkeypatch.setattr(knapsack, "_climb", lambda table, prices: None)
    monkeypatch.setattr(knapsack, "_solve", lambda table, open_items, cuts, seconds: (None, 0.0))
    with pytest.raises(TimeoutError, match=r"no choice within the limits was found in 0\.5 s"):
        least_loss([[1.0, 0.0]], [[[0, 1]], [[1, 0]]], [1, 1], seconds=0.5)

"""Uniform and the table's schemes by their true loss: the best is taken."""

import made
import pytest

from domino_jax.allocate.best_of import described, of_scheme, of_table, try_each
from domino_jax.allocate.loss_table import predicted
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, count_macs, table_cost, total_cost
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))
ALL = tuple(range(1, 9))
LAYERS = tuple(made.layer(name, (32, 8), IO, 256, ALL) for name in "abcd")
BUDGET = budget_of(LAYERS, 0.5)


def falling(scale):
    return {n: scale * (8 - n) ** 2 for n in ALL}


# The table believes that b is nearly useless.
TABLE = {"a": falling(1.0), "b": falling(1e-6), "c": falling(0.5), "d": falling(0.4)}


def try_all(layers, table, budget, true_loss):
    return try_each(
        of_table(layers, table, [budget]),
        lambda scheme: [true_loss(scheme)],
        lambda scheme: 2.0 + predicted(table, scheme),
    )


def try_with(true_loss):
    return {trial.name: trial for trial in try_all(LAYERS, TABLE, BUDGET, true_loss)}


def n_of(trial):
    return {name: nm.n for name, nm in trial.scheme.items()}


def test_the_schemes_keep_their_floors_and_the_budget():
    trials = try_with(lambda scheme: 0.0)
    assert {name: n_of(trial)["b"] for name, trial in trials.items()} == {
        "no floor": 1,
        "uniform": 4,
        "n >= 1/2 of uniform's": 2,
        "n >= 3/4 of uniform's": 3,
    }  # "n >= uniform's - 1" is the same scheme as that of 3/4: it is measured once
    for trial in trials.values():
        assert total_cost(LAYERS, BUDGET.cost, trial.scheme) <= BUDGET.allowed


def test_the_table_says_what_it_expects():
    trials = try_with(lambda scheme: 2.0)
    for trial in trials.values():
        rises = sum(TABLE[name][n] for name, n in n_of(trial).items())
        assert trial.predicted == 2.0 + rises


def test_the_least_true_loss_comes_first():
    assert next(iter(try_with(lambda scheme: scheme["a"].n))) == "uniform"
    assert next(iter(try_with(lambda scheme: -scheme["a"].n))) == "no floor"
    first = next(iter(try_with(lambda scheme: abs(scheme["b"].n - 2))))
    assert first == "n >= 1/2 of uniform's"


@pytest.mark.parametrize(("worst", "taken"), [(0.0, "no floor"), (3.0, "uniform")])
def test_a_gain_within_the_noise_of_the_batches_is_none(worst, taken):
    """Of gains 1, 1, 1, 1 - worst: beyond their standard error, or not: 0.25 ± 0.75."""

    def losses(scheme):
        rises = [1.0, 1.0, 1.0, 1.0 - worst] if scheme["b"].n == 1 else [0.0] * 4
        shift = 5.0 * (scheme["b"].n in (2, 3))
        return [2.0 + shift - rise for rise in rises]

    first, *_ = try_each(of_table(LAYERS, TABLE, [BUDGET]), losses)
    assert first.name == taken


def test_nothing_is_measured_twice():
    seen = []
    try_with(lambda scheme: seen.append(str(scheme)) or 0.0)
    assert len(seen) == len(set(seen)) == 4  # the four above


def test_without_a_uniform_scheme_within_reach_the_table_decides():
    layers = tuple(made.layer(name, (32, 8), IO, 256, (1, 8)) for name in "ab")
    # This machine is slow where a is sparse: only one sparse, one dense is fast.
    cost = table_cost({"a": {"1": 5, "8": 1}, "b": {"1": 1, "8": 5}}, layers)
    table = {"a": {1: 1.0, 8: 0.0}, "b": {1: 1.0, 8: 0.0}}
    trials = try_all(layers, table, budget_of(layers, 0.5, cost), lambda scheme: 0.0)
    assert [trial.name for trial in trials] == ["no floor"]
    assert n_of(trials[0]) == {"a": 8, "b": 1}


def test_the_report_names_the_one_that_is_taken():
    trials = try_all(LAYERS, TABLE, BUDGET, lambda scheme: scheme["a"].n)
    lines = described(trials, "fisher")
    assert lines[0].startswith("fisher: uniform is taken; ")
    assert len(lines) == 5
    assert lines[1].split() == ["4.0000", f"{trials[0].predicted:.4f}", "uniform"]
    late = described([trials[0]._replace(gap=0.0123)], "fisher")
    assert late[1].endswith("uniform (stopped within 1.23% of optimal)")


def test_any_scheme_is_raised_to_floors_where_the_least_is_lost():
    n = {"a": 7, "b": 1, "c": 5, "d": 3}
    scheme = {name: NM(k, 8) for name, k in n.items()}
    found = {each.name: each.scheme for each in of_scheme(LAYERS, scheme, "erk", TABLE, [BUDGET])}
    assert found["erk"] == scheme
    assert {nm.n for nm in found["uniform"].values()} == {4}
    for floor, least in (("1/2 of uniform's", 2), ("3/4 of uniform's", 3), ("uniform's", 4)):
        floored = found[f"erk, n >= {floor}"]
        assert min(nm.n for nm in floored.values()) >= least
        assert total_cost(LAYERS, BUDGET.cost, floored) == BUDGET.allowed
    # One weight more for b: a loses 3 for it, c 3.5 and d 4.4.
    assert {name: nm.n for name, nm in found["erk, n >= 1/2 of uniform's"].items()} == {
        "a": 6,
        "b": 2,
        "c": 5,
        "d": 3,
    }


def test_without_a_table_nothing_is_expected():
    candidates = of_scheme(LAYERS, {name: NM(4, 8) for name in "abcd"}, "erk", TABLE, [BUDGET])
    trials = try_each(candidates, lambda scheme: [1.0])
    assert [(trial.name, trial.predicted) for trial in trials] == [("erk", None)]  # all are uniform
    assert described(trials, "erk")[1].split() == ["1.0000", "-", "erk"]


def test_all_budgets_hold_for_every_scheme():
    dear = made.layer("e", (32, 8), IO, 10_000, ALL)
    layers = (*LAYERS, dear)
    table = {**TABLE, "e": falling(2.0)}
    budgets = [budget_of(layers, 0.5), budget_of(layers, 0.3, count_macs)]
    any_scheme = {name: NM(2, 8) for name in "abcde"}
    found = [
        *of_table(layers, table, budgets),
        *of_scheme(layers, any_scheme, "any", table, budgets),
    ]
    assert len(found) > 6
    for each in found:
        for budget in budgets:
            assert total_cost(layers, budget.cost, each.scheme) <= budget.allowed, each.name

"""The penalty factors of small networks, computed by hand from the formulas of docs/formulas.md."""

import sys

import made
import pytest

from domino_jax.allocate.paces import PACES, constant_pace, domino_pace, pace_rule
from domino_jax.core import costs
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.run import settings

DENSE = Axes((), (), (0,), (1,))  # IO


def layer(name, inputs, outputs, macs, reason=""):
    candidates = () if reason else (1, 2, 4)
    return made.layer(name, (inputs, outputs), DENSE, macs, candidates, reason)


# ERK at a budget of 1/2: 32 of 64 weights are kept. a: 12 / 32, b and c: 8 / 16 each; the sum of
# raw * size is 12 + 8 + 8 = 28, so the scale is 32 / 28 and the densities 3 / 7, 4 / 7 and 4 / 7.
A, B, C = layer("a", 4, 8, 320), layer("b", 4, 4, 64), layer("c", 4, 4, 16)
ERK_A, ERK_B = 1 - 3 / 7, 1 - 4 / 7


def test_all_dense():
    # c: f d = 320, 64, 16 over 320. r: surplus = ERK sparsity, over the largest, that of a.
    rule = domino_pace([A, B, C], 0.5, macs_weight=0.8, erk_weight=0.2)
    assert rule({"a": 4, "b": 4, "c": 4}) == pytest.approx(
        {
            "a": 0.8 * 1 + 0.2 * 1,
            "b": 0.8 * 64 / 320 + 0.2 * 3 / 4,
            "c": 0.8 * 16 / 320 + 0.2 * 3 / 4,
        }
    )


def test_a_layer_ahead_of_its_erk_density_grows():
    # a 1:4, b 2:4, c 4:4: f d = 80, 32, 16. Surplus: a 4/7 - 3/4 = -5/28, b 3/7 - 1/2 = -1/14,
    # c 3/7; the largest magnitude is that of c.
    rule = domino_pace([A, B, C], 0.5)
    found = rule({"a": 1, "b": 2, "c": 4})
    assert found == pytest.approx(
        {
            "a": 0.5 * 1 - 0.5 * (5 / 28) / (3 / 7),
            "b": 0.5 * 32 / 80 - 0.5 * (1 / 14) / (3 / 7),
            "c": 0.5 * 16 / 80 + 0.5,
        }
    )
    only_erk = domino_pace([A, B, C], 0.5, macs_weight=0, erk_weight=1)({"a": 1, "b": 2, "c": 4})
    assert only_erk == pytest.approx({"a": -5 / 12, "b": -1 / 6, "c": 1.0})
    assert all(isinstance(value, float) for value in found.values())


def test_the_largest_magnitude_may_be_a_negative_surplus():
    rule = domino_pace([A, B], 0.5, macs_weight=0, erk_weight=1)
    # Two layers: 24 of 48 kept, 24 / 20: densities 9/20 and 3/5. a 1:4: 11/20 - 3/4 = -1/5,
    # b 3:4 (between candidates): 2/5 - 1/4 = 3/20.
    assert rule({"a": 1, "b": 3}) == pytest.approx({"a": -1.0, "b": 0.75})


def test_erk_is_out_once_every_layer_has_reached_it():
    rule = domino_pace([A, B, C], 0.5)
    assert rule({"a": 1, "b": 2, "c": 2}) == {"a": 0.5, "b": 0.5 * 32 / 80, "c": 0.5 * 8 / 80}


@pytest.mark.parametrize(("behind", "expected"), [(0.009, 0.0), (0.011, 1.0)])
def test_erk_is_out_within_a_hundredth(behind, expected):
    # One layer alone: its ERK density is the budget (1,000 weights: no rounding of zeros).
    alone = layer("a", 100, 10, 5)
    rule = domino_pace([alone], 0.5 - behind, macs_weight=0, erk_weight=1)
    assert rule({"a": 2}) == {"a": expected}


def test_dense_layers_are_out_of_the_maxima_and_of_the_paces():
    # The stem has by far the most MACs. Of 64 + 64 weights 80 are kept: 64 in the stem, 16 in the
    # others, so with 28 as above the densities are 12/32 * 16/28 = 3/14 and 8/16 * 16/28 = 2/7.
    stem = layer("stem", 8, 8, 10**9, "dense by rule")
    rule = domino_pace([stem, A, B, C], 0.625)
    a, b = 1 - 3 / 14, 1 - 2 / 7
    assert rule({"a": 4, "b": 4, "c": 4}) == pytest.approx(
        {
            "a": 1.0,
            "b": 0.5 * 64 / 320 + 0.5 * b / a,
            "c": 0.5 * 16 / 320 + 0.5 * b / a,
        }
    )


def test_tables_are_outside_altogether():
    table = made.layer("table", (1000, 64), None, 0, (), "only looked up")
    n = {"a": 4, "b": 2, "c": 1}
    assert domino_pace([table, A, B, C], 0.5)(n) == domino_pace([A, B, C], 0.5)(n)


@pytest.mark.parametrize("width", [14, 8, 200])
def test_dense_layers_that_hold_more_than_all_that_is_kept(width):
    # Half of everything is less than the stem: ERK has nothing left to give, its limit is
    # sparsity 1 for all that can move. So the surplus is the density left.
    stem = layer("stem", 8, width, 1, "dense by rule")
    kept = (8 * width + 64) / 2
    assert kept <= 8 * width
    rule = domino_pace([stem, A, B, C], 0.5, macs_weight=0, erk_weight=1)
    assert rule({"a": 4, "b": 2, "c": 1}) == {"a": 1.0, "b": 0.5, "c": 0.25}


def test_a_cost_table_sets_the_pace():
    table = {"a": {"1": 1, "2": 2, "4": 3}, "b": {"1": 6, "2": 10, "4": 12}, "c": 1}
    cost = costs.table_cost(table, [A, B, C])
    rule = domino_pace([A, B, C], 0.5, cost=cost, macs_weight=1, erk_weight=0)
    assert rule({"a": 4, "b": 4, "c": 4}) == {"a": 3 / 12, "b": 1.0, "c": 1 / 12}
    assert rule({"a": 1, "b": 2, "c": 1}) == {"a": 1 / 10, "b": 1.0, "c": 1 / 40}


def test_a_network_that_costs_nothing():
    free = [layer("a", 4, 8, 0), layer("b", 4, 4, 0)]
    rule = domino_pace(free, 0.5, macs_weight=1, erk_weight=0)
    assert rule({"a": 4, "b": 4}) == {"a": 0.0, "b": 0.0}


def test_each_slice_of_a_stack_has_its_own_pace():
    stacked = Axes((0,), (), (1,), (2,))
    slices = [made.layer(f"w#{i}", (4, 4), stacked, 16 * (i + 1), (1, 2, 4)) for i in range(2)]
    # Equal shapes: ERK wants sparsity 1/2 of both, so the surplus of 4:4 is 1/2, of 2:4 it is 0.
    rule = domino_pace(slices, 0.5)
    assert rule({"w#0": 4, "w#1": 2}) == pytest.approx({"w#0": 0.5 + 0.5, "w#1": 0.5})
    assert rule({"w#0": 4, "w#1": 4}) == pytest.approx({"w#0": 0.25 + 0.5, "w#1": 1.0})


def test_constant():
    assert constant_pace({"a": 4, "b": 1}) == {"a": 1.0, "b": 1.0}


SIZES = costs.table_cost({"a": 3, "b": 2, "c": 1}, [A, B, C])


@pytest.mark.parametrize(
    ("cost", "counted", "weights"),
    [
        (costs.count_weights, costs.count_macs, (0.5, 0.5)),
        (costs.count_macs, costs.count_macs, (0.8, 0.2)),
        (SIZES, SIZES, (0.8, 0.2)),
    ],
)
def test_a_rule_by_name_has_the_weights_of_its_budget(cost, counted, weights):
    layers, n = (A, B, C), {"a": 4, "b": 4, "c": 1}
    budget = costs.budget_of(layers, 0.5, cost)
    keys = ("macs_weight", "erk_weight")
    by_default = domino_pace(layers, 0.5, cost=counted, **dict(zip(keys, weights, strict=True)))
    assert pace_rule("domino", layers, budget)(n) == by_default(n)
    given = {"macs_weight": 0.3, "erk_weight": 0.7}
    expected = domino_pace(layers, 0.5, cost=counted, **given)(n)
    assert pace_rule("domino", layers, budget, **given)(n) == expected != by_default(n)
    assert pace_rule("constant", layers, budget)(n) == constant_pace(n)


def test_a_pace_of_ones_own():
    budget = costs.budget_of((A, B), 0.5)
    assert pace_rule("own_parts:slowly", (A, B), budget)({"a": 1, "b": 1}) == {
        "a": 0.25,
        "b": 0.25,
    }
    with pytest.raises(InputError, match=r"pace 'own_parts:broken': expected a function"):
        pace_rule("own_parts:broken", (A, B), budget)
    with pytest.raises(InputError, match=r"unknown pace 'cosine'; nearest: .*'package.module:"):
        pace_rule("cosine", (A, B), budget)


def failing_maker(layers, budget, **options):
    return {}["lost"]


def without_arguments():
    return constant_pace


def failing_rule(layers, budget, **options):
    return lambda committed: committed["lost"]


def lambda_rule(layers, budget, **options):
    return lambda: {}


def leaving_rule(layers, budget, **options):
    return lambda committed: sys.exit(0)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (failing_maker, r"KeyError: 'lost' \(.*test_paces\.py, line \d+\);"),
        (without_arguments, r"too many positional arguments; it takes \(\)$"),
    ],
)
def test_a_maker_of_ones_own_that_fails_is_named(function, said):
    name = f"{__name__}:{function.__name__}"
    with pytest.raises(InputError, match=f"^pace '{name}': {said}"):
        pace_rule(name, (A, B), costs.budget_of((A, B), 0.5))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (failing_rule, r"KeyError: 'lost' \(.*test_paces\.py, line \d+\);"),
        (leaving_rule, r"SystemExit: 0 \(.*test_paces\.py, line \d+\);"),
        (lambda_rule, r"too many positional arguments; it takes \(\)$"),
    ],
)
def test_a_rule_of_ones_own_that_fails_is_named(function, said):
    name = f"{__name__}:{function.__name__}"
    rule = pace_rule(name, (A, B), costs.budget_of((A, B), 0.5))
    with pytest.raises(InputError, match=f"^pace '{name}': {said}"):
        rule({"a": 1, "b": 1})


@pytest.mark.parametrize("name", [*PACES, "own_parts:slowly"])
def test_every_name_is_a_setting(name):
    config = settings.defaults()
    config.search.pace = name
    settings.check(config)


def test_other_names_are_refused():
    config = settings.defaults()
    config.search.pace = "cosine"
    with pytest.raises(
        InputError, match=r"search.pace: expected one of 'domino', 'constant', or 'package"
    ):
        settings.check(config)

"""Budgets as people say them, exactly."""

from fractions import Fraction

import made
import pytest

from domino_jax.core.amounts import Amount, parse_amount
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, count_macs, count_weights, table_cost
from domino_jax.core.errors import InputError

IO = Axes((), (), (0,), (1,))
LAYERS = (
    made.layer("stem", (3, 8), IO, 2400, reason="3 inputs"),
    made.layer("body", (16, 8), IO, 1280, (1, 2, 4)),
)


@pytest.mark.parametrize(
    ("said", "value", "unit"),
    [
        (0.2, Fraction(1, 5), ""),
        (Fraction(1, 3), Fraction(1, 3), ""),
        ("0.2", Fraction(1, 5), ""),
        ("12.5%", Fraction(1, 8), ""),
        ("12.5 %", Fraction(1, 8), ""),
        ("1/3", Fraction(1, 3), ""),
        (1_600_000, 1_600_000, ""),
        ("5.0M", 5_000_000, ""),
        ("1460k", 1_460_000, ""),
        ("227M MACs", 227_000_000, "macs"),
        ("0.5G macs", 500_000_000, "macs"),
        ("1.1B params", 1_100_000_000, "params"),
        ("300 weights", 300, "params"),
    ],
)
def test_what_people_say_is_read_exactly(said, value, unit):
    assert parse_amount(said) == Amount(Fraction(value), unit)
    assert parse_amount(said).is_share == (value < 1)


@pytest.mark.parametrize(
    "said",
    [
        *(0, 1, 1.0, 1.5, -0.1, float("nan"), float("inf"), True, None, (1,)),
        *("", "%", "1/0", "2/1", "0%", "100%", "0", "1", "-5M", "5MM", "5 T", "0.5 MACs"),
        *("0.0001k", "5.M", "\u0665M", "1e6", "1_0"),
    ],
)
def test_what_is_no_budget_is_refused(said):
    with pytest.raises(InputError, match=r"^budget: expected a share above 0 and below 1"):
        parse_amount(said)


def test_a_share_of_what_can_move():
    half = budget_of(LAYERS, 0.5, movable=True)
    assert half.allowed == 24 + 64
    assert half.share == 88 / 152
    assert budget_of(LAYERS, 0.5).allowed == 76
    assert budget_of(LAYERS, 0.5, count_macs, movable=True).allowed == 2400 + 640


def test_a_count():
    assert budget_of(LAYERS, "100 weights").allowed == 100
    assert budget_of(LAYERS, "3k MACs", count_macs).allowed == 3000
    assert budget_of(LAYERS, 100, movable=True).allowed == 124
    assert budget_of(LAYERS, "1/3").allowed == Fraction(152, 3)
    third = table_cost({"stem": 1, "body": 2}, LAYERS)
    assert budget_of(LAYERS, "1.5", third).allowed == Fraction(3, 2)


def test_a_count_of_something_else_is_refused():
    with pytest.raises(InputError, match=r"got '3k MACs': set the objective to 'macs'"):
        budget_of(LAYERS, "3k MACs", count_weights)
    with pytest.raises(InputError, match=r"expected less than the dense 152, got '5.0M'"):
        budget_of(LAYERS, "5.0M")
    with pytest.raises(InputError, match=r"expected less than the dense 152, got 129"):
        budget_of(LAYERS, 129, movable=True)

"""What a choice between branches costs."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from domino_jax.trace.products import Unweighted, Use
from domino_jax.trace.walk import Facts


def either(branches: Sequence[Facts]) -> Facts:
    """Branches cost what the dearest of them costs, shared out among the weights of all.

    Each weight has its cost where it costs most. A weight that every branch uses keeps it; of three
    experts, one a branch, each keeps a third: one token goes to one expert, whether it is chosen
    by `lax.switch` or picked out of a stack.
    """
    costs = [_cost_by_place(facts) for facts in branches]
    dearest_of = {
        place: max(range(len(costs)), key=lambda number: costs[number].get(place, Fraction(0)))
        for cost in costs
        for place in cost
    }
    separate = sum((costs[number][place] for place, number in dearest_of.items()), Fraction(0))
    whole = max(sum(cost.values(), Fraction(0)) for cost in costs)
    share = whole / separate if separate else Fraction(1)
    return [
        replace(fact, macs=fact.macs * share * (dearest_of[_place(fact)] == number))
        for number, facts in enumerate(branches)
        for fact in facts
    ]


def _cost_by_place(facts: Facts) -> dict[Any, Fraction]:
    """Adds up what the products of each weight cost; those of activations are one place."""
    cost: dict[Any, Fraction] = {}
    for fact in facts:
        cost[_place(fact)] = cost.get(_place(fact), Fraction(0)) + fact.macs
    return cost


def _place(fact: Use | Unweighted) -> Any:
    if isinstance(fact, Unweighted):
        return None
    return fact.view.path, fact.view.offset, fact.view.stack

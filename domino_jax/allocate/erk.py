"""The baseline of Erdős–Rényi-kernel densities, rounded to candidates.

ERK gives every layer the density min(1, t · Σ shape / Π shape), with one scale t for the network
(`erk.erk` solves it for a sparsity). Here t is the largest whose rounded densities meet a budget,
whatever that counts. Only the scales matter at which a layer is halfway between two candidates.
"""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from operator import attrgetter
from typing import NamedTuple

from domino_jax.allocate.problem import Problem
from domino_jax.allocate.reach import require_reachable
from domino_jax.allocate.search import as_scheme
from domino_jax.core.costs import Budget, Cost, Number, budget_of, count_weights, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import Scheme


class _Rise(NamedTuple):
    """A layer is halfway between two neighboring candidates at this scale."""

    scale: Fraction
    layer: LayerSpec
    low: int
    high: int


def erk_scheme(
    layers: Iterable[LayerSpec], budget: float | Budget, *, cost: Cost = count_weights
) -> Scheme:
    """Returns the ERK densities of the largest scale that meets the budget, each rounded.

    A density goes to the nearest candidate. Of the layers that are halfway between two at that
    scale, those go up, in their order, whose next candidate the budget still allows.

    Args:
        layers: as `find_layers` gives them; those that cannot move are dense from the start.
        budget: share of the dense cost to keep, in (0, 1); or a `Budget` of these layers.
        cost: what a share is of; it need not rise with n.

    Raises:
        InputError: the budget is no share, or out of reach.
    """
    layers = tuple(layers)
    budget = budget_of(layers, budget, cost)
    require_reachable(layers, budget)
    n = {layer.name: layer.candidates[0] for layer in grouped(layers)}
    used = total_cost(layers, budget.cost, as_scheme(layers, n))
    best: tuple[dict[str, int], Number, list[_Rise]] | None = None
    for halfway in _by_scale(layers):
        if used <= budget.allowed:
            best = dict(n), used, halfway
        for rise in halfway:
            n[rise.layer.name] = rise.high
            used += _price(rise, budget.cost)
    if best is None:
        raise InputError(
            f"budget {budget.share:.6g} is out of reach of ERK schemes, not of mixed ones"
        )
    n, used, halfway = best
    for rise in halfway:
        if used + _price(rise, budget.cost) <= budget.allowed:
            n[rise.layer.name] = rise.high
            used += _price(rise, budget.cost)
    return as_scheme(layers, n)


def finished_by_scale(
    layers: Iterable[LayerSpec], scheme: Scheme, budgets: Sequence[Budget]
) -> Scheme:
    """Spends what an ERK scheme leaves of its budgets, until no next candidate fits.

    Those layers go up first that a larger scale would raise first.
    """
    layers = tuple(layers)
    n = {name: nm.n for name, nm in scheme.items()}
    left = [budget.allowed - total_cost(layers, budget.cost, scheme) for budget in budgets]
    rises = list(itertools.chain.from_iterable(_by_scale(layers)))
    while True:
        fitting = (
            rise
            for rise in rises
            if n[rise.layer.name] == rise.low
            and all(
                _price(rise, budget.cost) <= rest
                for budget, rest in zip(budgets, left, strict=True)
            )
        )
        rise = next(fitting, None)
        if rise is None:
            return as_scheme(layers, n)
        n[rise.layer.name] = rise.high
        prices = [_price(rise, budget.cost) for budget in budgets]
        left = [rest - price for rest, price in zip(left, prices, strict=True)]


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'erk' of `ALLOCATORS`; of several budgets the smallest scale holds."""
    schemes = [erk_scheme(problem.layers, budget) for budget in problem.budgets]
    scheme = {
        name: min((each[name] for each in schemes), key=lambda nm: nm.n) for name in schemes[0]
    }
    return finished_by_scale(problem.layers, scheme, problem.budgets)


def _by_scale(layers: Iterable[LayerSpec]) -> list[list[_Rise]]:
    """Lists the rises of each scale, from the smallest scale; those of one scale in layer order."""
    rises = [
        _Rise(Fraction(low + high, 2 * layer.m) / _raw(layer), layer, low, high)
        for layer in grouped(layers)
        for low, high in itertools.pairwise(layer.candidates)
    ]
    rises.sort(key=attrgetter("scale"))  # a stable sort
    return [list(group) for _, group in itertools.groupby(rises, attrgetter("scale"))]


def _raw(layer: LayerSpec) -> Fraction:
    """Returns the ERK density of a layer at scale 1."""
    return Fraction(sum(layer.shape), layer.size)


def _price(rise: _Rise, cost: Cost) -> Number:
    return cost(rise.layer, rise.high) - cost(rise.layer, rise.low)

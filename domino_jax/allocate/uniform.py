"""The baseline without a choice per layer: the same share for every layer."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from domino_jax.allocate.problem import Problem
from domino_jax.allocate.reach import require_reachable
from domino_jax.core.costs import Budget, Cost, budget_of, count_weights, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import NM, Scheme


def uniform_scheme(
    layers: Iterable[LayerSpec],
    budget: float | Budget,
    *,
    cost: Cost = count_weights,
    beside: Sequence[Budget] = (),
) -> Scheme:
    """Returns the largest share N/M that meets the budget when every layer takes it.

    A layer takes its largest candidate of that share or less, its smallest one if it has none:
    where M or the candidates differ (by rule), 4:16 goes with 2:8, and 1:16 with 1:8.

    Args:
        layers: as `find_layers` gives them.
        budget: share of the dense cost to keep, in (0, 1); or a `Budget` of these layers.
        cost: what a share is of.
        beside: further budgets that hold too.

    Raises:
        InputError: the budget is no share, or out of reach.
    """
    layers = tuple(layers)
    budget = budget_of(layers, budget, cost)
    budgets = (budget, *beside)
    for each in budgets:
        require_reachable(layers, each)
    movable = grouped(layers)
    shares = {Fraction(n, layer.m) for layer in movable for n in layer.candidates}
    for share in sorted(shares, reverse=True):
        scheme = {layer.name: NM(_within(layer, share), layer.m) for layer in movable}
        if all(total_cost(layers, each.cost, scheme) <= each.allowed for each in budgets):
            return scheme
    raise InputError(
        f"budget {budget.share:.6g} is out of reach of uniform schemes, not of mixed ones"
    )


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'uniform' of `ALLOCATORS`."""
    nm = problem.options.get("nm", "")
    if nm:
        return uniform_nm(problem.layers, NM.parse(nm))
    return uniform_scheme(problem.layers, problem.budget, beside=problem.beside)


def _within(layer: LayerSpec, share: Fraction) -> int:
    return max((n for n in layer.candidates if n <= share * layer.m), default=layer.candidates[0])


def uniform_nm(layers: Iterable[LayerSpec], nm: NM) -> Scheme:
    """Gives every layer of this M this N; one of another M the same share of it, or less.

    Raises:
        InputError: no layer has this M.
    """
    movable = grouped(layers)
    sizes = sorted({layer.m for layer in movable})
    if nm.m not in sizes:
        raise InputError(
            f"nm: expected N:M of M = {' or '.join(map(str, sizes))}, by m and rules, got {nm}"
        )
    share = Fraction(nm.n, nm.m)
    return {
        layer.name: nm if layer.m == nm.m else NM(_within(layer, share), layer.m)
        for layer in movable
    }


def uniform(layers: Iterable[LayerSpec], n: int) -> Scheme:
    """Gives every grouped layer the same n of its M.

    Raises:
        InputError: n is not within 1..M of a layer.
    """
    return {layer.name: NM(n, layer.m) for layer in grouped(layers)}

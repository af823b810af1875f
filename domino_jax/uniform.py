"""The baseline: the same choice for every layer."""

from collections.abc import Iterable

from domino_jax.budget import Cost, exact, grouped, total, weights
from domino_jax.layers import LayerSpec
from domino_jax.scheme import NM, Scheme
from domino_jax.search import require_reachable


def uniform_scheme(layers: Iterable[LayerSpec], budget: float, *, cost: Cost = weights) -> Scheme:
    """Returns the largest candidate that meets the budget when every layer takes it.

    Layers with candidates of their own (by rule) take the one of the same rank, counted from the
    largest, as far as they have it.

    Raises:
        ValueError: the budget is no share, or out of reach.
    """
    layers = tuple(layers)
    require_reachable(layers, budget, cost)
    allowed = exact(budget) * total(layers, cost)
    choices = max(len(spec.candidates) for spec in grouped(layers))
    for rank in range(choices):
        scheme = {
            spec.name: NM(spec.candidates[max(len(spec.candidates) - 1 - rank, 0)], spec.m)
            for spec in grouped(layers)
        }
        if total(layers, cost, scheme) <= allowed:
            return scheme
    raise ValueError(f"budget {budget} is out of reach of uniform schemes, not of mixed ones")

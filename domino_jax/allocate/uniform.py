"""The baselines without a choice per layer: the same share for every layer, and nothing pruned."""

from collections.abc import Iterable
from fractions import Fraction

from domino_jax.allocate.domino import require_reachable
from domino_jax.core.costs import Cost, exact, grouped, total, weights
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.scheme import NM, Scheme


def dense_scheme(layers: Iterable[LayerSpec]) -> Scheme:
    """Returns the scheme that prunes nothing: N == M in every grouped layer."""
    return {spec.name: NM(spec.m, spec.m) for spec in grouped(layers)}


def uniform_scheme(layers: Iterable[LayerSpec], budget: float, *, cost: Cost = weights) -> Scheme:
    """Returns the largest share N/M that meets the budget when every layer takes it.

    A layer takes its largest candidate of that share or less, its smallest one if it has none:
    where M or the candidates differ (by rule), 4:16 goes with 2:8, and 1:16 with 1:8.

    Raises:
        InputError: the budget is no share, or out of reach.
    """
    layers = tuple(layers)
    require_reachable(layers, budget, cost)
    allowed = exact(budget) * total(layers, cost)
    movable = grouped(layers)
    shares = {Fraction(n, spec.m) for spec in movable for n in spec.candidates}
    for share in sorted(shares, reverse=True):
        scheme = {spec.name: NM(_within(spec, share), spec.m) for spec in movable}
        if total(layers, cost, scheme) <= allowed:
            return scheme
    raise InputError(f"budget {budget} is out of reach of uniform schemes, not of mixed ones")


def _within(spec: LayerSpec, share: Fraction) -> int:
    return max((n for n in spec.candidates if n <= share * spec.m), default=spec.candidates[0])

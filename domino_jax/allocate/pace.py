"""How fast each layer decays during a search: rules committed n -> penalty factor.

A rule is a plain function of the committed n (layer name -> n); a new one needs no change here:
pass it as `domino(..., pace=rule)`. One that `--config.search.pace=name` shall take is an entry in
`PACES`, at the end of this file, and nothing else: settings and search.py read that table.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from domino_jax.core.costs import Cost, as_fraction, count_macs
from domino_jax.core.erk import erk
from domino_jax.core.layers import LayerSpec, counted, grouped

PaceRule = Callable[[Mapping[str, int]], Mapping[str, float]]
PaceMaker = Callable[..., PaceRule]

# Below this largest surplus of ERK sparsity the published code divides by almost nothing.
ERK_REACHED = 0.01


def constant_pace(committed: Mapping[str, int]) -> dict[str, float]:
    """Gives every layer the factor 1 (the paper's ablation without a layer-wise penalty)."""
    return dict.fromkeys(committed, 1.0)


def domino_pace(
    layers: Iterable[LayerSpec],
    budget: float,
    *,
    cost: Cost = count_macs,
    macs_weight: float = 0.5,
    erk_weight: float = 0.5,
) -> PaceRule:
    """Makes the paper's rule: eta_i = beta_1 c_i + beta_2 r_i.

    c_i is the layer's share of the costliest one, r_i how far its sparsity lags behind that of an
    Erdos-Renyi kernel network of the same budget. A factor can be negative: such a layer grows.

    Args:
        layers: as `find_layers` gives them.
        budget: share to keep, in (0, 1); ERK solves for sparsity 1 - budget.
        cost: what c_i counts: `budget.macs`, or a cost table.
        macs_weight: beta_1.
        erk_weight: beta_2.
    """
    layers = tuple(layers)
    movable = grouped(layers)
    wanted = _wanted_sparsity(counted(layers), float(1 - as_fraction(budget)))

    def paces(committed: Mapping[str, int]) -> dict[str, float]:
        costs = [float(cost(layer, committed[layer.name])) for layer in movable]
        surplus = [wanted[layer.name] - (1 - committed[layer.name] / layer.m) for layer in movable]
        most, span = max(costs), max(map(abs, surplus))
        reached = max(surplus) < ERK_REACHED
        return {
            layer.name: macs_weight * (c / most if most else 0.0)
            + erk_weight * (0.0 if reached else r / span)
            for layer, c, r in zip(movable, costs, surplus, strict=True)
        }

    return paces


def _wanted_sparsity(layers: list[LayerSpec], sparsity: float) -> dict[str, float]:
    """Solves ERK; where the dense layers alone hold all that is kept, its limit: all of it."""
    still = [layer.name for layer in layers if layer.reason]
    kept = sum(layer.size - math.floor(sparsity * layer.size) for layer in layers)
    if kept <= sum(layer.size for layer in layers if layer.reason):
        return {layer.name: 0.0 if layer.reason else 1.0 for layer in layers}
    return erk({layer.name: layer.shape for layer in layers}, sparsity, still)


# By name: maker(layers, budget, *, cost, macs_weight, erk_weight) -> rule.
PACES: Mapping[str, PaceMaker] = {
    "domino": domino_pace,
    "constant": lambda layers, budget, **weights: constant_pace,
}

"""How fast each layer decays during a search: rules committed n -> penalty factor.

A rule is a plain function of the committed n (layer name -> n), as in `domino(..., pace=rule)`.
For `--config.search.pace` a maker of `PACES` makes it, `maker(layers, budget, *, cost,
macs_weight, erk_weight) -> rule`; one of your own is 'package.module:maker'.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from domino_jax.core.costs import Budget, Cost, as_fraction, count_macs, count_weights
from domino_jax.core.erk import erk
from domino_jax.core.errors import InputError
from domino_jax.core.factories import explained, find_factory
from domino_jax.core.layers import LayerSpec, counted, grouped

PaceRule = Callable[[Mapping[str, int]], Mapping[str, float]]
PaceMaker = Callable[..., PaceRule]

PACES: Mapping[str, str] = {
    "domino": "domino_jax.allocate.paces:domino_pace",
    "constant": "domino_jax.allocate.paces:alike",
}

# Below this largest surplus of ERK sparsity the published code divides by almost nothing.
ERK_REACHED = 0.01


def constant_pace(committed: Mapping[str, int]) -> dict[str, float]:
    """Gives every layer the factor 1 (the paper's ablation without a layer-wise penalty)."""
    return dict.fromkeys(committed, 1.0)


def alike(layers: Iterable[LayerSpec], budget: float, **_: Any) -> PaceRule:
    """Makes `constant_pace`, whatever the layers and the budget: the entry 'constant'."""
    del layers, budget
    return constant_pace


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
        cost: what c_i counts: `count_macs`, or a cost table.
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


def pace_rule(
    name: str,
    layers: Iterable[LayerSpec],
    budget: Budget,
    *,
    macs_weight: float | None = None,
    erk_weight: float | None = None,
) -> PaceRule:
    """Makes the rule of a name, for a budget.

    Args:
        name: of `PACES`, or 'package.module:maker'.
        layers: as `find_layers` gives them.
        budget: of these layers; c_i counts its own cost where that is a table, else MACs.
        macs_weight: beta_1; None: the paper's, 0.5 where the budget counts weights, else 0.8.
        erk_weight: beta_2; None: the rest to 1 of the paper's beta_1.

    Raises:
        InputError: the name is unknown, or its maker returns no function; whatever one of your own
            raises, or the rule that it makes.
    """
    paper = (0.5, 0.5) if budget.cost is count_weights else (0.8, 0.2)
    rule = find_factory(name, PACES, what="pace")(
        tuple(layers),
        budget.share,
        cost=count_macs if budget.cost in (count_weights, count_macs) else budget.cost,
        macs_weight=paper[0] if macs_weight is None else macs_weight,
        erk_weight=paper[1] if erk_weight is None else erk_weight,
    )
    if not callable(rule):
        raise InputError(
            f"pace {name!r}: expected a function {{layer: n}} -> {{layer: factor}}, got a "
            f"{type(rule).__name__}"
        )
    return explained(rule, name, what="pace") if ":" in name else rule


def _wanted_sparsity(layers: list[LayerSpec], sparsity: float) -> dict[str, float]:
    """Solves ERK; where the dense layers alone hold all that is kept, its limit: all of it."""
    still = [layer.name for layer in layers if layer.reason]
    kept = sum(layer.size - math.floor(sparsity * layer.size) for layer in layers)
    if kept <= sum(layer.size for layer in layers if layer.reason):
        return {layer.name: 0.0 if layer.reason else 1.0 for layer in layers}
    return erk({layer.name: layer.shape for layer in layers}, sparsity, still)

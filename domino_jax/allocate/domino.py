"""The layer-wise N:M search of DominoSearch, as a pair of functions: init and update.

The caller trains with masks of `state.n` and the layer-wise decay `state.pace`; every
`vote_every` steps `update(state, params)` takes the vote. `votes` counts groups on the devices; the
decision (vote, candidates, budget, order, stop) is plain Python on exact integers. Source:
DominoSearch (Sun et al., NeurIPS 2021), section 3, and its published code; formulas in
docs/formulas.md.

Letters: S slices of a kernel ([] if it has no stack axes).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.paces import PaceRule, domino_pace, pace_rule
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.reach import fewest_votes
from domino_jax.allocate.search import Search, SearchState, as_scheme, by_layer
from domino_jax.allocate.votes import short_counter
from domino_jax.core import masks
from domino_jax.core.costs import (
    Budget,
    Cost,
    as_fraction,
    budget_of,
    count_weights,
    require_share,
    total_cost,
)
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel, kernel_weights, kernels, stacked
from domino_jax.core.layers import LayerSpec, group_count, grouped
from domino_jax.core.paths import require_known


def domino(
    layers: Iterable[LayerSpec],
    budget: float | Budget,
    *,
    cost: Cost = count_weights,
    vote_ratio: float = 0.75,
    pace: PaceRule | None = None,
) -> Search:
    """Makes the DominoSearch search.

    It starts at N = M; a layer that is sparse already starts at the smallest candidate that holds
    the nonzeros of its fullest group.

    Args:
        layers: as `find_layers` gives them, in the order in which the votes run.
        budget: share of the dense cost to keep, in (0, 1); or a `Budget` of these layers.
        cost: what a share is of: `count_weights`, `count_macs` or a cost table.
        vote_ratio: share of a layer's groups that must agree to n - 1, in (0, 1].
        pace: committed n -> penalty factor of each layer; the paper's with weights of one half
            (`paces.domino_pace`) by default.

    Raises:
        InputError: an argument is out of range, or no choice of candidates meets the budget; of
            init and update: a pace rule gives a layer no finite factor.
    """
    layers = tuple(layers)
    require_share("vote_ratio", vote_ratio)
    budget = budget_of(layers, budget, cost)
    fewest = fewest_votes(layers, budget)  # refuses a budget out of reach
    movable = grouped(layers)
    ratio = as_fraction(vote_ratio)
    groups = {layer.name: group_count(layer) for layer in movable}
    paces = domino_pace(layers, budget.share) if pace is None else pace
    count_short = short_counter(layers)

    def init(params: Any) -> SearchState:
        weights = kernel_weights(params, layers)
        n = _first_n(layers, weights)
        threshold = _thresholds(layers, weights, n)
        spent = total_cost(layers, budget.cost, as_scheme(movable, n))
        return SearchState(
            count=jnp.zeros([], jnp.int32),
            n=_to_arrays(layers, n),
            committed=_to_arrays(layers, n),
            threshold=threshold,
            pace=_to_paces(layers, paces(n), threshold),
            done=jnp.asarray(spent <= budget.allowed),
            last_change=jnp.zeros([], jnp.int32),
        )

    def update(state: SearchState, params: Any) -> SearchState:
        if state.done:
            return state
        short = jax.device_get(
            count_short(kernel_weights(params, layers), state.n, state.threshold)
        )
        before = by_layer(layers, state.n)
        agreeing = dict(zip([layer.name for layer in movable], short.tolist(), strict=True))
        n, committed, done = take_vote(
            layers,
            budget,
            before,
            by_layer(layers, state.committed),
            lambda layer: agreeing[layer.name] >= ratio * groups[layer.name],
        )
        votes = state.count + 1
        voted = SearchState(
            count=votes,
            n=_to_arrays(layers, n),
            committed=_to_arrays(layers, committed),
            threshold=state.threshold,
            pace=_to_paces(layers, paces(committed), state.threshold),
            done=jnp.asarray(done),
            last_change=votes if n != before else state.last_change,
        )
        return jax.tree.map(_put_like, voted, state)

    return Search(init, update, fewest)


def take_vote(
    layers: Iterable[LayerSpec],
    budget: Budget,
    n: Mapping[str, int],
    committed: Mapping[str, int],
    agrees: Callable[[LayerSpec], bool],
) -> tuple[dict[str, int], dict[str, int], bool]:
    """Takes one vote: in their order, the layers that agree go to n - 1; it ends at the budget.

    Args:
        layers: as `find_layers` gives them.
        budget: of these layers.
        n: of each grouped layer.
        committed: the last candidate that each has reached.
        agrees: asked of the layers that can move.

    Returns:
        n, committed, and whether the committed n meet the budget.
    """
    layers, n, committed = tuple(layers), dict(n), dict(committed)
    for layer in grouped(layers):
        name = layer.name
        if n[name] == layer.candidates[0] or not agrees(layer):
            continue
        n[name] -= 1
        if n[name] in layer.candidates:
            committed[name] = n[name]
            spent = total_cost(layers, budget.cost, as_scheme(layers, committed))
            if spent <= budget.allowed:
                return n, committed, True
    return n, committed, False


def allocate(problem: Problem) -> Search:
    """Is the entry 'domino' of `ALLOCATORS`."""
    return domino(problem.layers, problem.budget, **rules_of(problem))


def rules_of(problem: Problem) -> dict[str, Any]:
    """Returns the vote ratio and the pace rule of a problem, as `domino` takes them.

    They are of the options 'vote_ratio', 'pace', 'macs_weight' and 'erk_weight'.
    """
    options = problem.options
    pace = pace_rule(
        options.get("pace", "domino"),
        problem.layers,
        problem.budget,
        macs_weight=options.get("macs_weight"),
        erk_weight=options.get("erk_weight"),
    )
    return {"vote_ratio": options.get("vote_ratio", 0.75), "pace": pace}


def _first_n(layers: tuple[LayerSpec, ...], weights: Mapping[str, jax.Array]) -> dict[str, int]:
    """Returns the n that each layer starts from: M, or less where it has zeros for the rest."""

    @jax.jit
    def most(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            path: masks.most_nonzeros(weights[path], kernel.m, kernel.axes)
            for path, kernel in kernels(layers).items()
        }

    nonzeros = by_layer(layers, most(weights))
    return {
        layer.name: next(n for n in layer.candidates if n >= nonzeros[layer.name])
        for layer in grouped(layers)
    }


def _thresholds(
    layers: tuple[LayerSpec, ...], weights: Mapping[str, jax.Array], n: Mapping[str, int]
) -> dict[str, jax.Array]:
    """Returns the threshold of each group, among the weights that it starts with."""
    first = {path: stacked(kernel, n, kernel.m) for path, kernel in kernels(layers).items()}

    def threshold(path: str, kernel: Kernel, w: jax.Array) -> jax.Array:
        if (first[path] == kernel.m).all():
            return masks.thresholds(w, kernel.m, kernel.axes)
        return masks.thresholds_among(w, first[path], kernel.m, kernel.axes)

    @jax.jit
    def of_all(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            path: threshold(path, kernel, weights[path]) for path, kernel in kernels(layers).items()
        }

    return of_all(weights)


def _to_arrays(layers: tuple[LayerSpec, ...], values: Mapping[str, int]) -> dict[str, jax.Array]:
    return {
        path: jnp.asarray(stacked(kernel, values, kernel.m), jnp.int32)
        for path, kernel in kernels(layers).items()
    }


def _to_paces(
    layers: tuple[LayerSpec, ...], values: Mapping[str, float], threshold: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    require_finite_paces(layers, values)
    return {
        path: jnp.asarray(stacked(kernel, values, 0.0), threshold[path].dtype)
        for path, kernel in kernels(layers).items()
    }


def require_finite_paces(layers: Iterable[LayerSpec], values: Mapping[str, float]) -> None:
    """Refuses what a pace rule gave unless it is a finite factor for each grouped layer.

    Raises:
        InputError: the first layer that is wrong, and what it has.
    """
    names = [layer.name for layer in grouped(layers)]
    require_known(values, names, what="layer of a pace rule")
    for name in names:
        factor = values.get(name, math.nan)
        if not math.isfinite(factor):
            given = factor if name in values else "none"
            raise InputError(f"pace rule: expected a finite factor for layer {name!r}, got {given}")


def _put_like(value: jax.Array, before: Any) -> jax.Array:
    """Puts an array where the one before was put: a jitted step would compile anew for another."""
    return jax.device_put(value, before.sharding) if getattr(before, "committed", False) else value

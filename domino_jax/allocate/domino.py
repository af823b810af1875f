"""The layer-wise N:M search of DominoSearch, as a pair of functions: init and update.

The caller trains with masks of `state.n` and the layer-wise decay `state.pace`; every
`vote_every` steps `update(state, params)` takes the vote. One jitted function counts groups and
returns one int32 vector; the decision (vote, candidates, budget, order, stop) is plain Python on
exact integers. Source: DominoSearch (Sun et al., NeurIPS 2021), section 3, and its published code;
formulas in the README, "Glossary and formulas".

Letters: S slices of a kernel ([] if it has no stack axes); G groups of M weights.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.allocate.pace import PaceRule, domino_pace
from domino_jax.core import masks
from domino_jax.core.costs import Cost, Number, as_fraction, count_weights, lowest_cost, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernel_weights, kernels, stacked
from domino_jax.core.layers import LayerSpec, counted, group_count, grouped
from domino_jax.core.paths import require_known
from domino_jax.core.rules import flattened, shrunk
from domino_jax.core.scheme import NM, Scheme

# Rules for the layers whose inputs M does not divide.
_GROUPING = {"flatten": flattened, "shrink": shrunk}


class SearchState(NamedTuple):
    """Where a search stands; a pytree. The dicts go by kernel path.

    Attributes:
        count: votes taken; int32, [].
        n: what the masks use now, any value in 1..M; int32, [] or [S].
        committed: last candidate reached, what the scheme says; int32, [] or [S].
        threshold: of each group, set once by init; [S, W, G, O], at least float32.
        pace: the layer's penalty factor; dtype of threshold, [] or [S].
        done: the committed n meet the budget; bool, [].
        last_change: the vote at which any n changed last; int32, [].
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    n: dict[str, jax.Array]
    committed: dict[str, jax.Array]
    threshold: dict[str, jax.Array]
    pace: dict[str, jax.Array]
    done: jax.Array
    last_change: jax.Array


class Search(NamedTuple):
    """A search: `init(params) -> state` from dense weights, `update(state, params) -> state`."""

    init: Callable[[Any], SearchState]
    update: Callable[[SearchState, Any], SearchState]


def domino(
    layers: Iterable[LayerSpec],
    budget: float,
    *,
    cost: Cost = count_weights,
    vote_ratio: float = 0.75,
    pace: PaceRule | None = None,
) -> Search:
    """Makes the DominoSearch search.

    Args:
        layers: as `find_layers` gives them, in the order in which the votes run.
        budget: share of the dense cost to keep, in (0, 1).
        cost: what the budget counts: `budget.weights`, `budget.macs` or a cost table.
        vote_ratio: share of a layer's groups that must agree to n - 1, in (0, 1].
        pace: committed n -> penalty factor of each layer; the paper's with weights of one half
            (`pace.domino_pace`) by default.

    Raises:
        InputError: an argument is out of range, or no choice of candidates meets the budget; of
            init and update: a pace rule gives a layer no finite factor.
    """
    layers = tuple(layers)
    _require_share("vote_ratio", vote_ratio, closed=True)
    require_reachable(layers, budget, cost)
    allowed = as_fraction(budget) * total_cost(layers, cost)
    movable = grouped(layers)
    ratio = as_fraction(vote_ratio)
    groups = {layer.name: group_count(layer) for layer in movable}
    paces = domino_pace(layers, budget) if pace is None else pace
    count_short = jax.jit(partial(_counts, layers))

    def init(params: Any) -> SearchState:
        n = {layer.name: layer.m for layer in movable}
        threshold = jax.jit(lambda weights: _thresholds(layers, weights))(
            kernel_weights(params, layers)
        )
        return SearchState(
            count=jnp.zeros([], jnp.int32),
            n=_to_arrays(layers, n),
            committed=_to_arrays(layers, n),
            threshold=threshold,
            pace=_to_paces(layers, paces(n), threshold),
            done=jnp.zeros([], bool),
            last_change=jnp.zeros([], jnp.int32),
        )

    def update(state: SearchState, params: Any) -> SearchState:
        if state.done:
            return state
        short = jax.device_get(
            count_short(kernel_weights(params, layers), state.n, state.threshold)
        )
        before = by_layer(layers, state.n)
        n, committed = dict(before), by_layer(layers, state.committed)
        done = False
        for layer, agreeing in zip(movable, short.tolist(), strict=True):
            name = layer.name
            if n[name] == layer.candidates[0] or agreeing < ratio * groups[name]:
                continue
            n[name] -= 1
            if n[name] in layer.candidates:
                committed[name] = n[name]
                done = total_cost(layers, cost, _scheme(movable, committed)) <= allowed
                if done:
                    break
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

    return Search(init, update)


def scheme_of(layers: Iterable[LayerSpec], state: SearchState) -> Scheme:
    """Reads the scheme that a search has committed to, in the order of the layers."""
    layers = tuple(layers)
    return _scheme(grouped(layers), by_layer(layers, state.committed))


def by_layer(layers: Iterable[LayerSpec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns path -> array of [] or [S] into layer name -> Python number, in layer order."""
    layers = tuple(layers)
    host = jax.device_get(dict(values))
    return {
        layer.name: np.asarray(host[layer.path]).reshape(-1)[layer.index or 0].item()
        for layer in grouped(layers)
    }


def require_reachable(layers: Iterable[LayerSpec], budget: float, cost: Cost) -> None:
    """Refuses a budget that is no share, or below what the candidates allow.

    Raises:
        InputError: with the lowest share within reach, as it is and with each rule that lowers it.
    """
    layers = tuple(layers)
    _require_share("budget", budget)
    dense = total_cost(layers, cost)
    floor = lowest_cost(layers, cost)
    if floor > as_fraction(budget) * dense:
        others = {name: _lowest_under(rule, layers, cost) for name, rule in _GROUPING.items()}
        more = "".join(
            f"; {_share(least, dense)} with the {name!r} rule"
            for name, least in others.items()
            if least is not None and least < floor
        )
        raise InputError(
            f"budget {budget} is out of reach: the candidates allow {_share(floor, dense)} of the "
            f"dense cost at the least{more}"
        )


def fewest_votes(layers: Iterable[LayerSpec], budget: float, cost: Cost) -> int:
    """Counts the votes that a search needs if every layer takes n - 1 in each of them.

    Raises:
        InputError: as `require_reachable`.
    """
    layers = tuple(layers)
    require_reachable(layers, budget, cost)
    allowed = as_fraction(budget) * total_cost(layers, cost)
    votes = 0
    while _lowest_after(layers, cost, votes) > allowed:
        votes += 1
    return votes


def _lowest_after(layers: tuple[LayerSpec, ...], cost: Cost, votes: int) -> Number:
    least = {layer.name: layer.m - votes for layer in grouped(layers)}
    return sum(
        min(cost(layer, n) for n in layer.candidates if n >= least[layer.name])
        if layer.name in least
        else cost(layer, None)
        for layer in counted(layers)
    )


def _counts(layers: tuple[LayerSpec, ...], weights: Any, n: Any, threshold: Any) -> jax.Array:
    """Counts, for each grouped layer in order, the groups with fewer than n above threshold."""
    short = {
        path: masks.count_short(weights[path], n[path], threshold[path], kernel.m, kernel.axes)
        for path, kernel in kernels(layers).items()
    }
    return jnp.stack([short[layer.path].reshape(-1)[layer.index or 0] for layer in grouped(layers)])


def _thresholds(layers: tuple[LayerSpec, ...], weights: Any) -> dict[str, jax.Array]:
    return {
        path: masks.thresholds(weights[path], kernel.m, kernel.axes)
        for path, kernel in kernels(layers).items()
    }


def _to_arrays(layers: tuple[LayerSpec, ...], values: Mapping[str, int]) -> dict[str, jax.Array]:
    return {
        path: jnp.asarray(stacked(kernel, values, kernel.m), jnp.int32)
        for path, kernel in kernels(layers).items()
    }


def _to_paces(
    layers: tuple[LayerSpec, ...], values: Mapping[str, float], threshold: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    names = [layer.name for layer in grouped(layers)]
    require_known(values, names, what="layer of a pace rule")
    for name in names:
        factor = values.get(name, math.nan)
        if not math.isfinite(factor):
            given = factor if name in values else "none"
            raise InputError(
                f"pace rule: a finite factor for layer {name!r} is wanted, got {given}"
            )
    return {
        path: jnp.asarray(stacked(kernel, values, 0.0), threshold[path].dtype)
        for path, kernel in kernels(layers).items()
    }


def _put_like(value: jax.Array, before: Any) -> jax.Array:
    """Puts an array where the one before was put: a jitted step would compile anew for another."""
    return jax.device_put(value, before.sharding) if getattr(before, "committed", False) else value


def _scheme(movable: list[LayerSpec], n: Mapping[str, int]) -> dict[str, NM]:
    return {layer.name: NM(n[layer.name], layer.m) for layer in movable}


def _lowest_under(
    rule: Callable[..., tuple[LayerSpec, ...]], layers: tuple[LayerSpec, ...], cost: Cost
) -> Number | None:
    """Adds up the lowest cost with a rule for the layers that do not fit."""
    for candidates in dict.fromkeys(layer.candidates for layer in grouped(layers)):
        layers = rule(layers, candidates[-1], candidates)
    try:
        return lowest_cost(layers, cost)
    except KeyError:  # a cost table knows nothing of a layer that it was made without
        return None


def _share(part: Number, whole: Number) -> str:
    share = math.ceil(float(part / whole) * 1e4) / 1e4  # rounded up: that budget is within reach
    return f"{share:.4f} ({_number(part)} of {_number(whole)})"


def _number(value: Number) -> str:
    return f"{int(value):,}" if value == int(value) else f"{float(value):,.6g}"


def _require_share(what: str, value: float, *, closed: bool = False) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (0 < value <= 1 if closed else 0 < value < 1):
        raise InputError(
            f"{what}: a share in (0, 1{']' if closed else ')'} is wanted, got {value!r}"
        )

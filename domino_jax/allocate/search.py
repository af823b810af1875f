"""A search that trains on the way: where it stands, and the pair of functions that moves it.

Letters: S slices of a kernel ([] if it has no stack axes); G groups of M weights, W window
positions, O outputs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import NM, Scheme


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
    """An allocator that needs training between its decisions.

    The caller trains at masks of `state.n` with the layer-wise decay `state.pace`, and every so
    often takes a vote, until `state.done`.

    Attributes:
        init: params -> state, from dense weights.
        update: (state, params) -> state, one vote.
        fewest_votes: those that it needs at the least.
    """

    init: Callable[[Any], SearchState]
    update: Callable[[SearchState, Any], SearchState]
    fewest_votes: int = 1


def scheme_of(layers: Iterable[LayerSpec], state: SearchState) -> Scheme:
    """Reads the scheme that a search has committed to, in the order of the layers."""
    layers = tuple(layers)
    return as_scheme(layers, by_layer(layers, state.committed))


def as_scheme(layers: Iterable[LayerSpec], n: Mapping[str, int]) -> Scheme:
    """Makes the scheme of the n of each grouped layer, in the order of the layers."""
    return {layer.name: NM(n[layer.name], layer.m) for layer in grouped(layers)}


def by_layer(layers: Iterable[LayerSpec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns path -> array of [] or [S] into layer name -> Python number, in layer order."""
    layers = tuple(layers)
    host = jax.device_get(dict(values))
    return {
        layer.name: np.asarray(host[layer.path]).reshape(-1)[layer.index or 0].item()
        for layer in grouped(layers)
    }

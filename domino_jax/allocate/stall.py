"""When a search will not get further, and why."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from domino_jax.allocate.search import SearchState, by_layer
from domino_jax.core import masks
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.paths import leaves_by_path

# A layer whose norm passes this many times its start is running away (a negative pace grows it).
RUNAWAY = 10.0


def why_stuck(
    layers: Iterable[LayerSpec],
    state: SearchState,
    norms: Mapping[str, float],
    start_norms: Mapping[str, float],
    patience: int,
) -> str:
    """Says why a search will not get further: '' if it still may.

    Args:
        layers: as the search has them.
        state: after a vote.
        norms: layer name -> L2 norm now, as `layer_norms` gives it.
        start_norms: the same before the first step.
        patience: votes without any change of n that are too many.
    """
    layers = tuple(layers)
    n, pace = by_layer(layers, state.n), by_layer(layers, state.pace)
    for name, norm in norms.items():
        start = start_norms[name]
        # Whatever a kernel of zeros becomes is infinitely more. NaN compares as false.
        if not norm <= RUNAWAY * (start or math.inf):
            return (
                f"{name} (pace {pace[name]:.3g}) grew to a norm of {norm:.3g}, from {start:.3g} "
                "at the start"
            )
    still = int(state.count - state.last_change)
    return why_standing(layers, n, pace, still, patience)


def why_standing(
    layers: Iterable[LayerSpec],
    n: Mapping[str, int],
    pace: Mapping[str, float],
    still: int,
    patience: int,
) -> str:
    """Says why no n will change any more: '' if one still may.

    Args:
        layers: as the search has them.
        n: of each grouped layer.
        pace: of each grouped layer.
        still: votes since an n changed last.
        patience: those that are too many.
    """
    free = [layer.name for layer in grouped(layers) if n[layer.name] > layer.candidates[0]]
    if not free:
        return ""
    fastest = max(free, key=lambda name: pace[name])
    if pace[fastest] <= 0:
        return (
            "no layer that can still move decays; "
            f"the fastest is {fastest}, pace {pace[fastest]:.3g}"
        )
    if still >= patience:
        return (
            f"no n changed for {still} votes; "
            f"the fastest layer is {fastest}, pace {pace[fastest]:.3g}"
        )
    return ""


def layer_norms(layers: Iterable[LayerSpec]) -> Callable[[Any], dict[str, float]]:
    """Makes a function params -> layer name -> L2 norm of the whole kernel (of its slice)."""
    layers = tuple(layers)

    @jax.jit
    def norms(params: Any) -> dict[str, jax.Array]:
        by_path = leaves_by_path(params)
        return {
            path: masks.slice_norms(by_path[path], kernel.axes)
            for path, kernel in kernels(layers).items()
        }

    return lambda params: by_layer(layers, norms(params))

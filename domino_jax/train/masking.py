"""Masks that a gradient passes straight through (the straight-through estimator)."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import jax

from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import Levels, Masks, Scores, make_masks, where_kept
from domino_jax.core.paths import leaves_by_path, replace_leaves

Params = TypeVar("Params")


def straight_through(
    params: Params, layers: Iterable[LayerSpec], n: Levels, *, scores: Scores | None = None
) -> Params:
    """Keeps the n largest of every M; the gradient at the masked weights reaches all weights.

    Arguments and errors are those of `make_masks`.
    """
    return through_masks(params, make_masks(params, layers, n, scores=scores))


def through_masks(params: Params, masks: Masks) -> Params:
    """Sets the weights outside the masks to zero; a gradient reaches all weights as it is."""
    by_path = leaves_by_path(params)
    return through_values(
        params, {path: where_kept(mask, by_path[path]) for path, mask in masks.items()}
    )


def through_values(params: Params, values: Mapping[str, jax.Array]) -> Params:
    """Puts values in the place of weights, by path; a gradient reaches the weights as it is."""
    by_path = leaves_by_path(params)
    return replace_leaves(
        params,
        {path: _with_gradient_of(value, by_path[path]) for path, value in values.items()},
    )


@jax.custom_jvp
def _with_gradient_of(value: jax.Array, _through: jax.Array) -> jax.Array:
    return value


@_with_gradient_of.defjvp
def _with_gradient_of_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Through the function itself again: with `primals[0]` a second derivative would see the masked
    # weights, whose own gradient is cut off, and be zero.
    return _with_gradient_of(*primals), tangents[1]

"""Masks of a whole network, and the two ways in which a gradient passes them.

Masks are a dict path -> bool, for the grouped kernels only; n is a dict path -> int32, [] or [S].
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core import masks as _masks
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves, require_known
from domino_jax.core.scheme import NM

Params = TypeVar("Params")
Masks = Mapping[str, jax.Array]
Levels = Mapping[str, jax.Array | np.ndarray | int]


def make_masks(params: Any, layers: Iterable[LayerSpec], n: Levels) -> dict[str, jax.Array]:
    """Returns the top-n mask of every grouped kernel.

    Args:
        params: parameter pytree.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, [] or [S], as `levels` gives it; may be traced.

    Raises:
        InputError: the parameters lack a kernel; or a kernel has no n, or one that is no number,
            such as NM, or outside 1..M.
    """
    by_path = leaves_by_path(params)
    grouped = kernels(layers)
    require_known(grouped, list(by_path), what="parameter")
    return {
        path: _masks.top_n(by_path[path], _level(path, n, kernel.m), kernel.m, kernel.axes)
        for path, kernel in grouped.items()
    }


def _level(path: str, n: Levels, m: int) -> Any:
    """Returns the n of a kernel, if it is one: arrays are taken as they are."""
    level = n.get(path)
    if (
        level is None
        or isinstance(level, NM | str)
        or (isinstance(level, int) and not 1 <= level <= m)
    ):
        raise InputError(
            f"{path}: the number of weights to keep of every {m} is wanted (`levels` reads it off "
            f"a scheme), got {level!r}"
        )
    return level


def apply_masks(params: Params, masks: Masks) -> Params:
    """Sets the weights outside the masks to zero; a gradient reaches the survivors only."""
    by_path = leaves_by_path(params)
    return replace_leaves(
        params, {path: select(mask, by_path[path]) for path, mask in masks.items()}
    )


def hard_mask(params: Params, layers: Iterable[LayerSpec], n: Levels) -> Params:
    """Keeps the n largest of every M, for the forward pass and for the gradient."""
    return apply_masks(params, make_masks(params, layers, n))


def straight_through(params: Params, layers: Iterable[LayerSpec], n: Levels) -> Params:
    """Keeps the n largest of every M; the gradient at the masked weights reaches all weights."""
    return through_masks(params, make_masks(jax.lax.stop_gradient(params), layers, n))


def through_masks(params: Params, masks: Masks) -> Params:
    """Sets the weights outside the masks to zero; a gradient reaches all weights as it is."""
    by_path = leaves_by_path(params)
    return replace_leaves(
        params,
        {
            path: _with_gradient_of(
                select(mask, jax.lax.stop_gradient(by_path[path])), by_path[path]
            )
            for path, mask in masks.items()
        },
    )


@jax.custom_jvp
def _with_gradient_of(value: jax.Array, _through: jax.Array) -> jax.Array:
    return value


@_with_gradient_of.defjvp
def _with_gradient_of_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


def select(mask: jax.Array, w: jax.Array) -> jax.Array:
    """Returns w where the mask is true, and zero elsewhere."""
    return jnp.where(mask, w, jnp.zeros_like(w))

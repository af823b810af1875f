"""The rise of the loss by a second derivative of each weight: half the sum of it times w² removed.

Masks of fewer weights remove all that masks of more do, so the sums over the weights of each rank
give the rise at every N. Stacked kernels go slice by slice: what lies between is as large as one.

Letters: S stack slices, M group size.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.scores import Scores
from domino_jax.core.canonical import Axes, one_slice, sizes
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masks import sums_by_rank
from domino_jax.core.paths import leaves_by_path

Take = Callable[[jax.Array], jax.Array]  # a part of what has the shape of a kernel


def quadratic_table(
    layers: Iterable[LayerSpec],
    params: Any,
    curvature: dict[str, jax.Array],
    scores: Scores = {},  # noqa: B006 (read only)
) -> LossTable:
    """Makes the table of half the sum of curvature · w² over the weights that a mask removes.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        curvature: path -> second derivative for each weight of a grouped kernel.
        scores: what the masks go by, as `make_scores` gives them; the magnitudes otherwise.

    Raises:
        InputError: a sum is not finite.
    """
    layers, weights = tuple(layers), leaves_by_path(params)
    sums = {
        path: _by_rank(weights[path], scores.get(path), curvature[path], kernel.m, kernel.axes)
        for path, kernel in kernels(layers).items()
    }
    return table_by_rank(layers, sums)


@partial(jax.jit, static_argnums=(3, 4))  # a shape that comes again is not compiled again
def _by_rank(
    w: jax.Array, score: jax.Array | None, curvature: jax.Array, m: int, axes: Axes
) -> jax.Array:
    return removed_by_rank(w, score, lambda take: take(curvature), m, axes)


def removed_by_rank(
    w: jax.Array,
    score: jax.Array | None,
    curvature: Callable[[Take], jax.Array],
    m: int,
    axes: Axes,
) -> jax.Array:
    """Adds up half of curvature · w² over the weights that are first, second, … of their group.

    Args:
        w: the weights of a grouped kernel.
        score: of each weight, the largest first; None: its magnitude.
        curvature: take -> the curvature of the part that `take` takes of a kernel.
        m: group size.
        axes: the parts the kernel's axes play.

    Returns:
        [S, M], at least float32.
    """
    slices, *_ = sizes(w.shape, axes)

    def of_slice(index: jax.Array) -> jax.Array:
        take = partial(one_slice, index=index, axes=axes)
        second = curvature(take)
        half = 0.5 * second * jnp.square(take(w).astype(second.dtype))
        return sums_by_rank(take(w if score is None else score), half, m, axes)[0]

    return jax.lax.map(of_slice, jnp.arange(slices))


def table_by_rank(layers: Iterable[LayerSpec], sums: dict[str, jax.Array]) -> LossTable:
    """Makes the table of sums over the weights of each rank, [S, M] by path.

    Raises:
        InputError: a sum is not finite.
    """
    by_rank = jax.device_get(sums)
    return {
        layer.name: _row(layer, by_rank[layer.path][layer.index or 0]) for layer in grouped(layers)
    }


def _row(layer: LayerSpec, sums: np.ndarray) -> dict[int, float]:
    if not np.isfinite(sums).all():
        raise InputError(f"{layer.name}: expected finite squared gradients, got NaN or infinity")
    return {n: math.fsum(sums[n:].tolist()) for n in layer.candidates}

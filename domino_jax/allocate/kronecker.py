"""The rise of the loss by what a product sees: half the sum of E[g²] δᵀHδ over its outputs.

H is the mean of x xᵀ over the inputs x of the layer's product, g the gradient by an output, and δ
the weights of that output that a mask removes (`trace.taps`): K-FAC's curvature with its output
side on the diagonal (Martens and Grosse, 2015). Unlike Fisher's and `kdiag`'s sums it knows that
inputs go together: of two equal ones either may go, not both.

Scale: as `kdiag`. Letters: G feature groups of a convolution, K inputs, O outputs.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.allocate.calibration import Show, shown
from domino_jax.allocate.curvature import Measured, curvature_scheme
from domino_jax.allocate.kdiag import require_tapped
from domino_jax.allocate.loss_table import LossTable, without_noise
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.scores import Scores
from domino_jax.core.canonical import Axes, matrices, one_slice
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernel_weights
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masked import where_kept
from domino_jax.core.masks import top_n
from domino_jax.core.scheme import Scheme
from domino_jax.trace.taps import Statistics, Taps, tap
from domino_jax.trace.turns import change_in_turn

_PIECES = 100  # of the progress that is shown of two passes


def kronecker_table(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
) -> LossTable:
    """Makes the table in one pass over the batches, with the H of all layers in memory.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        loss: (params, batch) -> mean loss over the examples, which do not depend on each other.
        batches: leaves [B, ...], of one shape; at least one.
        scores: what the masks go by, as `make_scores` gives them.

    Raises:
        InputError: a grouped layer cannot be tapped, with the reason; a rise is not finite; or as
            `tap`.
    """
    layers = tuple(layers)
    names = [layer.name for layer in grouped(layers)]
    taps = tap(loss, params, batches, layers, only=names)
    return kronecker_table_of(layers, params, scores, taps)


def kronecker_table_of(
    layers: Iterable[LayerSpec], params: Any, scores: Scores, taps: Taps
) -> LossTable:
    """Makes the same table of statistics that were gathered before, with H.

    Arguments and errors are those of `kronecker_table`; taps are of all grouped layers.
    """
    layers = tuple(layers)
    weights = kernel_weights(params, layers)
    found: Mapping[str, Statistics | str] = {**taps.statistics, **taps.untapped}
    return {
        layer.name: _row(layer, weights[layer.path], scores.get(layer.path), found[layer.name])
        for layer in grouped(layers)
    }


def kronecker_table_by_layer(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Sequence[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
    report: Callable[[float], None] = lambda share: None,
) -> LossTable:
    """Makes the same table with one H in memory, for a second pass forward over the batches.

    A layer with several products, or in a loop or branch, takes a pass of its own.

    Args:
        layers: as for `kronecker_table`, and so are params, loss and batches.
        params: as above.
        loss: as above.
        batches: as above.
        scores: as above.
        report: called with the share that is done, 0 to 1: each pass counts as half.
    """
    layers = tuple(layers)
    names, done = [layer.name for layer in grouped(layers)], itertools.count(1)

    def told() -> Iterator[Any]:
        for number, batch in enumerate(batches, start=1):
            yield batch
            report(number / len(batches) / 2)

    without_h = tap(loss, params, told(), layers, products=False, only=names)
    weights = kernel_weights(params, layers)
    rows = {
        layer.name: _row(layer, weights[layer.path], None, without_h.untapped[layer.name])
        for layer in grouped(layers)
        if layer.name in without_h.untapped
    }

    def turn(w: jax.Array, layer: LayerSpec, own: Statistics | str) -> None:
        if not isinstance(own, str):
            own = without_h.statistics[layer.name]._replace(products=own.products)
        rows[layer.name] = _row(layer, w, scores.get(layer.path), own)
        report(0.5 + next(done) / len(tapped) / 2)

    tapped = [layer for layer in grouped(layers) if layer.name not in rows]
    change_in_turn(loss, params, batches, tapped, turn)
    return {name: rows[name] for name in names}


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'kronecker' of `ALLOCATORS`; at the running batch statistics, as 'fisher'."""

    def at_once(measured: Measured, show: Show) -> LossTable:
        params, loss, batches, scores = measured
        return kronecker_table(problem.layers, params, loss, shown(batches, show), scores=scores)

    def by_layer(measured: Measured, show: Show) -> LossTable:
        params, loss, batches, scores = measured
        return kronecker_table_by_layer(
            problem.layers,
            params,
            loss,
            batches,
            scores=scores,
            report=lambda share: show(round(_PIECES * share), "percent of two passes"),
        )

    if not problem.options["low_memory"]:
        return curvature_scheme(problem, "kronecker", at_once)
    return curvature_scheme(problem, "kronecker", by_layer, pieces=_PIECES)


def _row(
    layer: LayerSpec, w: jax.Array, score: jax.Array | None, own: Statistics | str
) -> dict[int, float]:
    """Returns the rise at each candidate; the masks of fewer weights remove all that others do."""
    if isinstance(own, str):
        require_tapped(layer.name, own)
        return dict.fromkeys(layer.candidates, 0.0)
    h = own.products
    if layer.groups is None or layer.roles is None or h is None:
        raise InputError(f"{layer.name}: expected a layer with groups, and its H")
    numbers, by = own._replace(products=None), w if score is None else score
    rise = partial(_rise, layer.groups.along, layer.roles, layer.m, w, by, layer.index or 0)
    rises = {n: float(rise(numbers, h, n)) for n in layer.candidates}
    if not np.isfinite(list(rises.values())).all():
        raise InputError(f"{layer.name}: expected a finite rise of the loss, got {rises}")
    # What a further weight adds may be less than nothing, where inputs cancel each other.
    return without_noise(rises)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _rise(
    along: Axes,
    roles: Axes,
    m: int,
    w: jax.Array,
    score: jax.Array,
    index: int,
    own: Statistics,
    h: jax.Array,
    n: int,
) -> jax.Array:
    """Half the sum of rows · E[g²] δᵀHδ of one slice at one n; no score is below 0."""
    w, score = (one_slice(x, index, roles) for x in (w, score))
    removed = where_kept(~top_n(score, n, m, along), w.astype(own.squares.dtype))
    groups, inputs, _ = h.shape
    delta = matrices(removed, roles)[0].reshape(inputs, groups, -1)  # [K, G, O / G]
    moved = jnp.einsum("gkl,lgo->kgo", h, delta, precision="highest")
    by_output = (delta * moved).sum(0).reshape(-1)
    return 0.5 * jnp.vdot(own.rows * own.gradients, by_output, precision="highest")

"""The rise of the loss that a diagonal, local quadratic expects: half the sum of F w² removed.

F, the empirical Fisher information, is the mean square of each weight's gradient. One pass over the
batches gives the table of every candidate. It strips layers near a saturated output, where the
quadratic is blind: floors on n and the true joint loss guard against that (`best_of`).

Scale: with micro-batches of b examples F is b times the mean square of the gradient of their mean
loss. That is the mean square of one example's gradient where the gradients of examples are
independent with mean 0, and is so exactly for b = 1. Devices that share a batch each take
micro-batches of their own examples. Letters: B examples, b of a micro-batch, D devices.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.allocate.curvature import Measured, Show, curvature_scheme
from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.scores import Scores
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masks import sums_by_rank
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.core.scheme import Scheme

MICRO = 4  # examples of one gradient in a search: small ones see more, large ones are quicker


def fisher_table(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    micro: int = 1,
    at_once: int = 1,
    scores: Scores = {},  # noqa: B006 (read only)
    report: Callable[[int], None] = lambda done: None,
) -> LossTable:
    """Makes the table of the diagonal Fisher information.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        loss: (params, batch) -> mean loss.
        batches: leaves [B, ...], of one shape.
        micro: b, examples of one gradient.
        at_once: gradients side by side (`vmap`) on each device that shares a batch; each takes
            the memory of the weights.
        scores: what the masks go by, as `make_scores` gives them.
        report: called with the number of batches done.

    Raises:
        InputError: b · at_once does not divide B, there is no batch, or F is not finite.
    """
    layers = tuple(layers)
    information = fisher_information(
        layers, params, loss, batches, micro=micro, at_once=at_once, report=report
    )
    return quadratic_table(layers, params, information, scores)


def fisher_information(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    micro: int = 1,
    at_once: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, jax.Array]:
    """Measures F of every weight of the grouped kernels, by path.

    Arguments and errors are those of `fisher_table`.
    """
    layers = tuple(layers)
    add = jax.jit(_adding(layers, loss, micro, at_once), static_argnums=3)
    by_path = leaves_by_path(params)
    squares = {path: jnp.zeros(by_path[path].shape, jnp.float32) for path in kernels(layers)}
    gradients = 0
    for done, batch in enumerate(batches, start=1):
        _require_divides(batch, micro, at_once)
        squares = add(squares, params, batch, _devices(batch, micro * at_once))
        gradients += jax.tree.leaves(batch)[0].shape[0] // micro
        report(done)
    if not gradients:
        raise InputError("fisher: expected at least one calibration batch, got none")
    return {path: micro / gradients * total for path, total in squares.items()}


def micro_of(batches: Sequence[Any]) -> int:
    """Chooses how many examples a gradient is of: at most `MICRO`, a divisor of the batch."""
    size = jax.tree.leaves(batches[0])[0].shape[0]
    return next(b for b in range(min(MICRO, size), 0, -1) if size % b == 0)


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'fisher' of `ALLOCATORS`.

    Its gradients are at the running batch statistics: those of a micro-batch are of few examples.
    """

    def table_of(measured: Measured, show: Show) -> LossTable:
        micro = micro_of(measured.batches)
        return fisher_table(
            problem.layers,
            measured.params,
            measured.loss,
            measured.batches,
            micro=micro,
            scores=measured.scores,
            report=lambda done: show(done, f"micro-batches of {micro}"),
        )

    return curvature_scheme(problem, "fisher", table_of)


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
    layers = tuple(layers)

    @jax.jit
    def sums(params: Any, curvature: dict[str, jax.Array], scores: Scores) -> dict[str, jax.Array]:
        by_path = leaves_by_path(params)
        made = {}
        for path, kernel in kernels(layers).items():
            w = by_path[path].astype(curvature[path].dtype)
            half = 0.5 * curvature[path] * jnp.square(w)
            made[path] = sums_by_rank(scores.get(path, by_path[path]), half, kernel.m, kernel.axes)
        return made

    by_rank = jax.device_get(sums(params, curvature, scores))
    return {
        layer.name: _row(layer, by_rank[layer.path][layer.index or 0]) for layer in grouped(layers)
    }


def _row(layer: LayerSpec, sums: np.ndarray) -> dict[int, float]:
    if not np.isfinite(sums).all():
        raise InputError(f"{layer.name}: expected finite squared gradients, got NaN or infinity")
    return {n: math.fsum(sums[n:].tolist()) for n in layer.candidates}


def _adding(
    layers: tuple[LayerSpec, ...], loss: Callable[[Any, Any], jax.Array], micro: int, at_once: int
) -> Callable[[dict[str, jax.Array], Any, Any, int], dict[str, jax.Array]]:
    """Makes (squares, params, batch, devices) -> squares and those of a batch's gradients."""

    def squared(params: Any, part: Any) -> dict[str, jax.Array]:
        by_path = leaves_by_path(params)
        own = {path: by_path[path] for path in kernels(layers)}
        grads = jax.grad(lambda own: loss(replace_leaves(params, own), part))(own)
        return {path: jnp.square(grad.astype(jnp.float32)) for path, grad in grads.items()}

    def add(
        squares: dict[str, jax.Array], params: Any, batch: Any, devices: int
    ) -> dict[str, jax.Array]:
        def dealt(x: jax.Array) -> jax.Array:
            """Makes [turns, D · at_once, b, ...]: each device stays with the rows that it has."""
            by_device = x.reshape(devices, -1, at_once, micro, *x.shape[1:]).swapaxes(0, 1)
            return by_device.reshape(-1, devices * at_once, *by_device.shape[3:])

        parts = jax.tree.map(dealt, batch)

        def chunk(squares: dict[str, jax.Array], part: Any) -> tuple[dict[str, jax.Array], None]:
            each = jax.vmap(squared, (None, 0))(params, part)
            return {path: total + each[path].sum(0) for path, total in squares.items()}, None

        return jax.lax.scan(chunk, squares, parts)[0]

    return add


def _devices(batch: Any, taken: int) -> int:
    """Counts the devices that a batch is split over; fewer where so many turns do not divide it."""
    leaf = jax.tree.leaves(batch)[0]
    rows = leaf.sharding.shard_shape(leaf.shape)[0] if isinstance(leaf, jax.Array) else len(leaf)
    return math.gcd(len(leaf) // rows, len(leaf) // taken)


def _require_divides(batch: Any, micro: int, at_once: int) -> None:
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % (micro * at_once):
            raise InputError(
                f"fisher: expected micro-batches of {micro} examples, {at_once} at once, to fill "
                f"a batch, got a batch of {leaf.shape[0]}"
            )

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from domino_jax.allocate.calibration import Show
from domino_jax.allocate.curvature import Measured, curvature_scheme
from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.quadratic import removed_by_rank, table_by_rank
from domino_jax.allocate.scores import Scores
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel, kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.core.scheme import Scheme
from domino_jax.trace.example import examples_in

Each = dict[str, jax.Array]  # path -> gradients side by side, [D · at_once, *kernel]
Sums = dict[str, jax.Array]  # path -> what is made of them
MadeOf = Callable[[Any, Scores, Each], Sums]  # of params, scores and gradients
MICRO = 4  # examples of one gradient in a search: small ones see more, large ones are quicker


class Gradients(NamedTuple):
    """What gradients are taken of, and how; see `fisher_table`."""

    layers: tuple[LayerSpec, ...]
    loss: Callable[[Any, Any], jax.Array]
    micro: int
    at_once: int
    report: Callable[[int], None] = lambda done: None


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
    """Makes the table of the diagonal Fisher information, which is itself held nowhere.

    Of each gradient only what a mask removes is added up: the memory is that of one gradient.

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
    gradients = Gradients(layers, loss, micro, at_once, report)
    return table_by_rank(layers, _mean(gradients, by_rank(layers), params, scores, batches))


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

    def squares(params: Any, scores: Scores, each: Each) -> Sums:
        return {path: _squared(grads).sum(0) for path, grads in each.items()}

    gradients = Gradients(tuple(layers), loss, micro, at_once, report)
    return _mean(gradients, squares, params, {}, batches)


def micro_of(batches: Sequence[Any]) -> int:
    """Chooses how many examples a gradient is of: at most `MICRO`, a divisor of the batch."""
    size = examples_in(batches[0])
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


def _mean(
    gradients: Gradients, made_of: MadeOf, params: Any, scores: Scores, batches: Iterable[Any]
) -> Sums:
    """Returns b times the mean over all gradients of what is made of them."""
    add, taken, by_path = adding(gradients, made_of), 0, leaves_by_path(params)
    shapes = {
        path: jax.ShapeDtypeStruct((1, *by_path[path].shape), by_path[path].dtype)
        for path in kernels(gradients.layers)
    }
    made = jax.eval_shape(made_of, params, scores, shapes)
    sums = {path: jnp.zeros(own.shape, own.dtype) for path, own in made.items()}
    for done, batch in enumerate(batches, start=1):
        _require_divides(batch, gradients.micro, gradients.at_once)
        devices = _devices(batch, gradients.micro * gradients.at_once)
        # Waited for: of batches that are under way at once each would take memory of its own.
        sums = jax.block_until_ready(add(sums, params, scores, batch, devices))
        taken += examples_in(batch) // gradients.micro
        gradients.report(done)
    if not taken:
        raise InputError("fisher: expected at least one calibration batch, got none")
    return {path: gradients.micro / taken * total for path, total in sums.items()}


def by_rank(layers: tuple[LayerSpec, ...]) -> MadeOf:
    """Makes (params, scores, gradients) -> what masks remove, by rank: [S, M] by path."""

    def made(params: Any, scores: Scores, each: Each) -> Sums:
        by_path = leaves_by_path(params)

        def of(path: str, kernel: Kernel) -> jax.Array:
            def of_one(gradient: jax.Array) -> jax.Array:
                return removed_by_rank(
                    by_path[path],
                    scores.get(path),
                    lambda take: _squared(take(gradient)),
                    kernel.m,
                    kernel.axes,
                )

            # Each device sums up its own gradients: what they tell each other are [S, M].
            return jax.vmap(of_one)(each[path]).sum(0)

        return {path: of(path, kernel) for path, kernel in kernels(layers).items()}

    return made


def adding(gradients: Gradients, made_of: MadeOf) -> Callable[[Sums, Any, Scores, Any, int], Sums]:
    """Makes (sums, params, scores, batch, devices) -> sums and what a batch adds to them."""
    layers, loss, micro, at_once, _ = gradients

    def gradient(params: Any, part: Any) -> Each:
        by_path = leaves_by_path(params)
        own = {path: by_path[path] for path in kernels(layers)}
        return jax.grad(lambda own: loss(replace_leaves(params, own), part))(own)

    def add(sums: Sums, params: Any, scores: Scores, batch: Any, devices: int) -> Sums:
        def dealt(x: jax.Array) -> jax.Array:
            """Makes [turns, D · at_once, b, ...]: each device stays with the rows that it has."""
            by_device = x.reshape(devices, -1, at_once, micro, *x.shape[1:]).swapaxes(0, 1)
            return by_device.reshape(-1, devices * at_once, *by_device.shape[3:])

        def chunk(sums: Sums, part: Any) -> tuple[Sums, None]:
            made = made_of(params, scores, jax.vmap(gradient, (None, 0))(params, part))
            return {path: total + made[path] for path, total in sums.items()}, None

        return jax.lax.scan(chunk, sums, jax.tree.map(dealt, batch))[0]

    return jax.jit(add, static_argnums=4)


def _squared(gradients: jax.Array) -> jax.Array:
    return jnp.square(gradients.astype(jnp.float32))


def _devices(batch: Any, taken: int) -> int:
    """Counts the devices that a batch is split over; fewer where so many turns do not divide it."""
    leaf = jax.tree.leaves(batch)[0]
    rows = leaf.sharding.shard_shape(leaf.shape)[0] if isinstance(leaf, jax.Array) else len(leaf)
    return math.gcd(len(leaf) // rows, len(leaf) // taken)


def _require_divides(batch: Any, micro: int, at_once: int) -> None:
    size = examples_in(batch)
    if size % (micro * at_once):
        raise InputError(
            f"fisher: expected micro-batches of {micro} examples, {at_once} at once, to fill "
            f"a batch, got a batch of {size}"
        )

"""The true rise of the loss when one layer is pruned and all others are dense.

Every layer and candidate is tried on the same batches. n is traced: one compiled function serves
all. The table is as true as the batches are many; what several layers do together it cannot see.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from domino_jax.allocate.calibration import (
    fingerprint,
    keep_table,
    loss_of,
    own_batches,
    own_scores,
    refuse_early,
    taken_scheme,
)
from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.loss_table import LossTable, without_noise
from domino_jax.allocate.measured import Measured, kept
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.scores import Scores
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import NM, Scheme

# Of the settings: what was measured under others is measured anew.
KEY = ("calibration_batches", "calibration_statistics", "batch", "m", "score")


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'sensitivity' of `ALLOCATORS`; goes on from what it measured when stopped."""
    options = problem.options
    wanted = {layer.name: _tried(layer, options["grid"]) for layer in grouped(problem.layers)}
    refuse_early(problem)
    params, _ = problem.weights()
    batches = own_batches(problem)
    scores = own_scores(problem, batches)
    key = {"weights": fingerprint(params)} | {name: options[name] for name in KEY}
    with kept(problem, key) as (known, keep):
        before = sum(n in known.get(name, ()) for name, tried in wanted.items() for n in tried)
        done = itertools.count(before + 1)
        with problem.progress("sensitivity", sum(map(len, wanted.values())), before) as show:

            def report(measured: Measured) -> None:
                keep(measured)
                show(next(done), "")

            measured = measure(
                problem.layers,
                params,
                loss_of(problem),
                batches,
                scores=scores,
                grid=options["grid"],
                known=known,
                report=report,
            )
    table = as_table(problem.layers, measured)
    keep_table(problem, table, method="sensitivity", statistics=options["calibration_statistics"])
    return taken_scheme(problem, table, "sensitivity", scores)


def measure(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Sequence[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
    grid: Sequence[int] | None = None,
    known: Measured = {},  # noqa: B006 (read only)
    report: Callable[[Measured], None] = lambda measured: None,
) -> Measured:
    """Measures the mean loss with one layer at one n, for all layers and candidates.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        loss: (params, batch) -> mean loss; traced once for all that is measured.
        batches: of one shape.
        scores: what the masks go by, as `make_scores` gives them.
        grid: the candidates to try; None: all.
        known: what was measured before, on the same batches; it is not measured again.
        report: called with all that is known after each layer and candidate.

    Raises:
        InputError: a grid without a candidate of some layer, or a loss that is not finite.
    """
    layers = tuple(layers)
    wanted = {layer.name: _tried(layer, grid) for layer in grouped(layers)}
    of_scheme = joint_loss(layers, params, loss, batches, scores=scores)
    measured = {name: dict(known.get(name, {})) for name in wanted}
    dense = {layer.name: NM(layer.m, layer.m) for layer in grouped(layers)}
    dense_loss = next((row[dense[name].m] for name, row in measured.items() if row), None)
    for layer in grouped(layers):
        row = measured[layer.name]
        if dense_loss is None:
            dense_loss = of_scheme(dense)
        row[layer.m] = dense_loss
        for n in wanted[layer.name]:
            if n not in row:
                row[n] = of_scheme({**dense, layer.name: NM(n, layer.m)})
                report(measured)
    return measured


def sensitivity_table(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Sequence[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
    grid: Sequence[int] | None = None,
) -> LossTable:
    """Measures the table of all layers and candidates; arguments and errors as of `measure`."""
    layers = tuple(layers)
    return as_table(layers, measure(layers, params, loss, batches, scores=scores, grid=grid))


def as_table(layers: Iterable[LayerSpec], measured: Measured) -> LossTable:
    """Turns measured losses into rises over dense, noise removed, for every candidate.

    Between two n that were tried the logarithm of the rise runs in a straight line.
    """
    table = {}
    for layer in grouped(layers):
        row = measured[layer.name]
        rises = without_noise({n: row[n] - row[layer.m] for n in sorted(row)})
        table[layer.name] = {n: _between(rises, n) for n in layer.candidates}
    return table


def _tried(layer: LayerSpec, grid: Sequence[int] | None) -> tuple[int, ...]:
    """Lists the n below M to measure; the smallest candidate is one of them, whatever the grid."""
    below = layer.candidates[:-1]
    if grid is None:
        return below
    tried = tuple(n for n in below if n in grid)
    if not tried:
        raise InputError(
            f"grid: expected some of the candidates {list(below)} of {layer.name}, got {[*grid]}"
        )
    return tried if tried[0] == below[0] else (below[0], *tried)


def _between(rises: Mapping[int, float], n: int) -> float:
    """Interpolates in log loss; where that falls to 0, as at dense, by the third power.

    Small weights are about equally frequent at any magnitude near 0: the squares of the k smallest
    of a group add up like k³.
    """
    if n in rises:
        return rises[n]
    low, high = next((a, b) for a, b in itertools.pairwise(sorted(rises)) if a < n < b)
    share = (n - low) / (high - low)
    if rises[high] <= 0:
        return rises[low] * (1 - share) ** 3
    return math.exp((1 - share) * math.log(rises[low]) + share * math.log(rises[high]))

"""The true rise of the loss when one layer is pruned and all others are dense.

Every layer and candidate is tried on the same batches. n is traced: one compiled function serves
all. The table is as true as the batches are many; what several layers do together it cannot see.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax

from domino_jax.allocate.loss_table import LossTable, without_noise
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM

Measured = Mapping[str, Mapping[int, float]]  # layer name -> {n: mean loss}; n = M is dense


def measure(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Sequence[Any],
    *,
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
        grid: the candidates to try; None: all.
        known: what was measured before, on the same batches; it is not measured again.
        report: called with all that is known after each layer and candidate.

    Raises:
        InputError: a grid without a candidate of some layer, or a loss that is not finite.
    """
    layers = tuple(layers)
    wanted = {layer.name: _tried(layer, grid) for layer in grouped(layers)}
    of_scheme = joint_loss(layers, params, loss, batches)
    measured = {name: {int(n): x for n, x in known.get(name, {}).items()} for name in wanted}
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


def joint_loss(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Sequence[Any],
) -> Callable[[Mapping[str, NM]], float]:
    """Makes scheme -> true mean loss over the batches of the masked dense weights.

    Raises:
        InputError: of the function: the loss is not finite.
    """
    layers = tuple(layers)
    masked_loss = jax.jit(lambda params, n, batch: loss(hard_mask(params, layers, n), batch))

    def of_scheme(scheme: Mapping[str, NM]) -> float:
        n = n_by_path(scheme, layers)
        values = [masked_loss(params, n, batch) for batch in batches]
        mean = math.fsum(map(float, values)) / len(values)
        if not math.isfinite(mean):
            pruned = [f"{name} at {nm}" for name, nm in scheme.items() if nm.n < nm.m]
            what = ", ".join(pruned[:3]) or "the dense network"
            raise InputError(f"calibration: expected a finite loss with {what}, got {mean}")
        return mean

    return of_scheme


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
    low, high = next((a, b) for a, b in pairwise(sorted(rises)) if a < n < b)
    share = (n - low) / (high - low)
    if rises[high] <= 0:
        return rises[low] * (1 - share) ** 3
    return math.exp((1 - share) * math.log(rises[low]) + share * math.log(rises[high]))

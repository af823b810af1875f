"""The exact finish of a search: its scheme spends the budget to the last weight that fits.

A search that stops at the first scheme within its budget overshoots, and one that stands still may
be a little above it. Both are mended where the least magnitude is lost: the share of a layer's
squared weights that its masks remove, added up over layers.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.exact import within_bounds
from domino_jax.allocate.loss_table import LossTable
from domino_jax.core.costs import Budget, total_cost
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masks import sums_by_rank
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import Scheme

# Above its budget by more than this share a search has failed, and no finish hides it.
NEAR = 0.05


def finished(
    layers: Iterable[LayerSpec], scheme: Scheme, budgets: Sequence[Budget], losses: LossTable
) -> Scheme | None:
    """Returns the nearest scheme that uses the budgets up: one that only keeps more, or only less.

    No layer of it can take its next candidate within the budgets (and, of a scheme that was above
    one, within its old n).

    Args:
        layers: as `find_layers` gives them.
        scheme: within the first budget, or at most `NEAR` above it.
        budgets: of these layers; what the scheme was not made for comes after the first.
        losses: what each layer's n costs, such as `magnitude_table`.

    Returns:
        None where the scheme is further above the first budget, or nothing below it meets all.
    """
    layers = tuple(layers)
    n = {name: nm.n for name, nm in scheme.items()}
    spent = [total_cost(layers, budget.cost, scheme) for budget in budgets]
    if float(spent[0]) > (1 + NEAR) * float(budgets[0].allowed):
        return None
    if any(cost > budget.allowed for cost, budget in zip(spent, budgets, strict=True)):
        found = within_bounds(layers, losses, budgets, most=n)
    else:
        # A layer that has zeros for the rest already gains nothing by keeping more.
        enough = {
            name: min(c for c, loss in row.items() if not loss) for name, row in losses.items()
        }
        most = {name: max(n[name], enough[name]) for name in n}
        found = within_bounds(layers, losses, budgets, least=n, most=most)
    return found.scheme if found else None


def magnitude_table(layers: Iterable[LayerSpec], params: Any) -> LossTable:
    """Makes the table of the share of a layer's squared weights that its masks remove."""
    layers = tuple(layers)

    @jax.jit
    def sums(params: Any) -> dict[str, jax.Array]:
        by_path = leaves_by_path(params)
        wide = {path: by_path[path].astype(jnp.float32) for path in kernels(layers)}
        return {
            path: sums_by_rank(by_path[path], jnp.square(wide[path]), kernel.m, kernel.axes)
            for path, kernel in kernels(layers).items()
        }

    by_rank = jax.device_get(sums(params))
    table = {}
    for layer in grouped(layers):
        row = by_rank[layer.path][layer.index or 0].tolist()
        whole = math.fsum(row) or 1.0
        table[layer.name] = {n: math.fsum(row[n:]) / whole for n in layer.candidates}
    return table

"""What 'fisher', 'kdiag' and 'kronecker' share: a table by curvature, at the running statistics.

Scale: squared gradients stand for the curvature where the labels are as the network expects them.
An example of T labels, such as a window of tokens, has the mean of T losses, whose gradients count
as independent: the square of their mean is T times less than the mean of their squares.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from domino_jax.allocate.calibration import (
    Show,
    keep_table,
    own_batches,
    own_scores,
    refuse_early,
    taken_scheme,
)
from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.problem import Batch, Problem
from domino_jax.allocate.scores import Scores
from domino_jax.core.scheme import Scheme
from domino_jax.trace.example import examples_in


class Measured(NamedTuple):
    """What such a table is made from.

    Attributes:
        params: of the dense network.
        loss: (params, batch) -> mean loss at the running batch statistics.
        batches: of calibration.
        scores: what the masks go by.
    """

    params: Any
    loss: Callable[[Any, Batch], jax.Array]
    batches: Sequence[Batch]
    scores: Scores


def curvature_scheme(
    problem: Problem,
    method: str,
    table_of: Callable[[Measured, Show], LossTable],
    *,
    pieces: int | None = None,
) -> Scheme:
    """Returns the scheme that is taken by a table, and keeps the table.

    Args:
        problem: as of an allocator.
        method: its name.
        table_of: what the table is made from, and show -> the table.
        pieces: of the work, for the progress bar; None: a batch each.
    """
    refuse_early(problem)
    params, stats = problem.weights()

    def loss(params: Any, batch: Batch) -> jax.Array:
        return problem.loss(params, stats, batch)

    batches = own_batches(problem)
    measured = Measured(params, loss, batches, own_scores(problem, batches))
    with problem.progress(method, pieces or len(batches), 0) as show:
        table = table_of(measured, show)
    labels = sum(float(problem.labels_of(batch)) for batch in batches)
    each = labels / sum(examples_in(batch) for batch in batches)
    table = {name: {n: each * rise for n, rise in row.items()} for name, row in table.items()}
    keep_table(problem, table, method=method, statistics="running")
    return taken_scheme(problem, table, method, measured.scores)

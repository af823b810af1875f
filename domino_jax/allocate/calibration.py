"""What the allocators by loss share: fixed batches, the loss, the table on disk, the comparison."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from domino_jax.allocate.best_of import described, try_all
from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.loss_table import LossTable, write_table
from domino_jax.allocate.problem import Batch, Problem
from domino_jax.allocate.reach import require_reachable
from domino_jax.core.scheme import Scheme

TABLE = "table.json"


def refuse_early(problem: Problem) -> None:
    """Refuses a budget out of reach and too many batches, before the dense network is trained.

    Raises:
        InputError: what is wrong.
    """
    require_reachable(problem.layers, problem.budget)
    problem.batches(0, 2 * problem.options["calibration_batches"])


def own_batches(problem: Problem) -> list[Batch]:
    """Returns the batches that a table is made from: the first `calibration_batches`."""
    return list(problem.batches(0, problem.options["calibration_batches"]))


def loss_of(problem: Problem) -> Callable[[Any, Batch], jax.Array]:
    """Makes (params, batch) -> loss, at the batch statistics that the settings name."""
    of_batch = problem.options["calibration_statistics"] == "batch"
    loss, stats = problem.training_loss if of_batch else problem.loss, problem.weights().stats
    return lambda params, batch: loss(params, stats, batch)


def taken_scheme(problem: Problem, table: LossTable, method: str) -> Scheme:
    """Returns the scheme of the least true loss among those of a table and uniform, and says so.

    The batches are as many as those of the table, and others.
    """
    count = problem.options["calibration_batches"]
    apart = list(problem.batches(count, count))
    true_loss = joint_loss(problem.layers, problem.weights().params, loss_of(problem), apart)
    trials = try_all(problem.layers, table, problem.budget, true_loss)
    for line in described(trials, method):
        problem.say(line)
    return trials[0].scheme


def keep_table(problem: Problem, table: LossTable, method: str) -> None:
    """Writes the table where the problem keeps what was found."""
    if problem.folder is not None and jax.process_index() == 0:
        write_table(
            problem.folder / TABLE,
            table,
            method=method,
            batches=problem.options["calibration_batches"],
            statistics=problem.options["calibration_statistics"],
        )


def fingerprint(params: Any) -> str:
    """Tells weights from others."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

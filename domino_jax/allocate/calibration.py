"""What the allocators by loss share: fixed batches, the loss, the table on disk, the comparison."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from domino_jax.allocate.best_of import described, try_all
from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.loss_table import LossTable, written
from domino_jax.allocate.problem import Batch, Problem
from domino_jax.allocate.reach import require_reachable
from domino_jax.allocate.scores import Scores, make_scores
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


def own_scores(problem: Problem, batches: Iterable[Batch]) -> Scores:
    """Makes the scores that the masks go by, at the running batch statistics."""
    params, stats = problem.weights()

    def loss(params: Any, batch: Batch) -> jax.Array:
        return problem.loss(params, stats, batch)

    return make_scores(problem.options["score"], problem.layers, params, loss, batches)


def taken_scheme(problem: Problem, table: LossTable, method: str, scores: Scores) -> Scheme:
    """Returns the scheme of the least true loss among those of a table and uniform, and says so.

    The batches are as many as those of the table, and others; the masks go by the scores.
    """
    count = problem.options["calibration_batches"]
    apart = list(problem.batches(count, count))
    params = problem.weights().params
    true_loss = joint_loss(problem.layers, params, loss_of(problem), apart, scores=scores)
    trials = try_all(problem.layers, table, problem.budget, true_loss)
    for line in described(trials, method):
        problem.say(line)
    return trials[0].scheme


def keep_table(problem: Problem, table: LossTable, **origin: str) -> None:
    """Keeps a table, and where its numbers come from."""
    made = {"batches": problem.options["calibration_batches"], "score": problem.options["score"]}
    problem.keep(TABLE, written(table, **made, **origin))


def fingerprint(params: Any) -> str:
    """Tells weights from others."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

"""What is told by the loss: fixed batches, the table on disk, which of several schemes is best."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from domino_jax.allocate.best_of import (
    UNIFORM,
    Candidate,
    Trial,
    described,
    distinct,
    of_scheme,
    of_table,
    try_each,
)
from domino_jax.allocate.dense import dense_scheme
from domino_jax.allocate.finish import magnitude_table
from domino_jax.allocate.joint_loss import LossOn, joint_loss_on
from domino_jax.allocate.loss_table import LossTable, predicted, written
from domino_jax.allocate.problem import Batch, Problem
from domino_jax.allocate.reach import require_reachable
from domino_jax.allocate.refine import refined
from domino_jax.allocate.scores import Scores, make_scores
from domino_jax.core.scheme import Scheme

TABLE = "table.json"
Show = Callable[[int, str], None]  # of the pieces done, and a text


def refuse_early(problem: Problem) -> None:
    """Refuses a budget out of reach and too many batches, before the dense network is trained.

    Raises:
        InputError: what is wrong.
    """
    for budget in problem.budgets:
        require_reachable(problem.layers, budget)
    problem.batches(0, 2 * problem.options["calibration_batches"])


def own_batches(problem: Problem) -> list[Batch]:
    """Returns the batches that a table is made from: the first `calibration_batches`."""
    return list(problem.batches(0, problem.options["calibration_batches"]))


def loss_of(problem: Problem) -> Callable[[Any, Batch], jax.Array]:
    """Makes (params, batch) -> loss, at the batch statistics that the settings name."""
    of_batch = problem.options["calibration_statistics"] == "batch"
    loss, stats = problem.training_loss if of_batch else problem.loss, problem.weights().stats
    return lambda params, batch: loss(params, stats, batch)


def shown(batches: Sequence[Batch], show: Show) -> Iterator[Batch]:
    """Yields batches, and shows how many of them are done."""
    for done, batch in enumerate(batches, start=1):
        yield batch
        show(done, "")


def own_scores(problem: Problem, batches: Sequence[Batch]) -> Scores:
    """Makes the scores that the masks go by, at the running batch statistics."""
    rule = problem.options["score"]
    if rule == "magnitude":  # looks at no batch, so there is no progress to show
        return {}
    params, stats = problem.weights()

    def loss(params: Any, batch: Batch) -> jax.Array:
        return problem.loss(params, stats, batch)

    with problem.progress("scores", len(batches), 0) as show:
        return make_scores(rule, problem.layers, params, loss, shown(batches, show))


def taken_scheme(problem: Problem, table: LossTable, method: str, scores: Scores) -> Scheme:
    """Returns the scheme of the least true loss among those of a table and uniform, and says so.

    The batches are as many as those of the table, and others; the masks go by the scores. Then it
    is refined, where the option 'refine' says so.
    """
    candidates = of_table(problem.layers, table, problem.budgets)
    loss, apart = _true_loss(problem, scores), _batches_apart(problem)
    dense = loss(dense_scheme(problem.layers), apart)
    trials = _tried(problem, candidates, loss, apart, lambda s: dense + predicted(table, s))
    return _refined(problem, trials, table, method, loss)


def guarded_scheme(problem: Problem, scheme: Scheme, method: str) -> Scheme:
    """Returns the scheme of the least true loss among that of any method and uniform, and says so.

    Where no table says what a layer's n costs, magnitudes do. Without the option 'guard' the scheme
    has no rivals, and is only refined.
    """
    losses = magnitude_table(problem.layers, problem.weights().params)
    candidates = [Candidate(method, scheme)]
    if problem.options.get("guard") == UNIFORM:
        candidates = of_scheme(problem.layers, scheme, method, losses, problem.budgets)
    scores = own_scores(problem, own_batches(problem))
    loss, apart = _true_loss(problem, scores), _batches_apart(problem)
    trials = _tried(problem, candidates, loss, apart)
    return _refined(problem, trials, losses, method, loss)


def _tried(
    problem: Problem,
    candidates: Sequence[Candidate],
    loss: LossOn,
    batches: Sequence[Batch],
    expected: Callable[[Scheme], float] | None = None,
) -> list[Trial]:
    """Measures the schemes on the same batches; see `try_each`."""
    done = itertools.count(1)
    with problem.progress("schemes", len(distinct(candidates)) * len(batches), 0) as show:

        def measured(scheme: Scheme, batch: Batch) -> float:
            found = loss(scheme, [batch])
            show(next(done), "")
            return found

        return try_each(candidates, lambda s: [measured(s, batch) for batch in batches], expected)


def _refined(
    problem: Problem, trials: list[Trial], table: LossTable, method: str, loss: LossOn
) -> Scheme:
    """Refines the best trial on the batches of the table, and takes it if it is so on the others.

    All trials are told and noted.
    """
    tries, best = problem.options.get("refine", 0), trials[0]
    if tries:
        own, apart = own_batches(problem), _batches_apart(problem)
        with problem.progress("refine", tries, 0) as show:
            found = refined(
                problem.layers,
                best.scheme,
                table,
                problem.budgets,
                lambda scheme: loss(scheme, own),
                tries=tries,
                report=lambda tried, least: show(tried, f"loss {least:.4f}"),
            )
        after = loss(found.scheme, apart)
        problem.say(
            f"refine: {found.taken} of {found.tried} exchanges help: the loss {found.before:.4f} "
            f"-> {found.after:.4f}, on the batches kept apart {best.true:.4f} -> {after:.4f}"
        )
        if found.taken:
            expected = None
            if best.predicted is not None:
                rise = predicted(table, found.scheme) - predicted(table, best.scheme)
                expected = best.predicted + rise
            other = Trial(f"{best.name}, refined", found.scheme, expected, after)
            trials = [other, *trials] if after < best.true else [best, other, *trials[1:]]
    for line in described(trials, method):
        problem.say(line)
    problem.note(
        "trials", [{"name": t.name, "predicted": t.predicted, "true": t.true} for t in trials]
    )
    return trials[0].scheme


def _batches_apart(problem: Problem) -> list[Batch]:
    """Returns as many batches as those of a table, and others."""
    count = problem.options["calibration_batches"]
    return list(problem.batches(count, count))


def _true_loss(problem: Problem, scores: Scores) -> LossOn:
    params, loss = problem.weights().params, loss_of(problem)
    return joint_loss_on(problem.layers, params, loss, scores=scores)


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

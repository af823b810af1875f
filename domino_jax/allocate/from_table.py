"""A loss table from anywhere: measured on another machine, or by a method of one's own."""

from pathlib import Path

from domino_jax.allocate.calibration import own_batches, own_scores, refuse_early, taken_scheme
from domino_jax.allocate.loss_table import read_table
from domino_jax.allocate.problem import Problem
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import Scheme


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'table' of `ALLOCATORS`."""
    path = problem.options["table"]
    if not path:
        raise InputError("search.table: expected the file of a loss table, got ''")
    table = read_table(Path(path), problem.layers)
    refuse_early(problem)
    return taken_scheme(problem, table, "table", own_scores(problem, own_batches(problem)))

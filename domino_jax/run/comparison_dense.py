"""The dense network of each seed of a comparison: one cell trains it, all others start from it.

The first cell of a seed that can be run trains it. Where one has begun to, it stays that one, also
when an earlier cell, which could not be run before, can be run now.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, dense, experiment
from domino_jax.run.comparison_report import Cell

FOLDER = "dense"


def in_order(cells: Sequence[Cell], place_of: Callable[[Cell], Path]) -> list[Cell]:
    """Lists the cells, first of each seed the one that began the dense network.

    Args:
        cells: those of a seed together, the seeds in rising order.
        place_of: a cell -> its work directory.
    """
    return sorted(cells, key=lambda cell: (cell.seed, not _has_begun(place_of(cell))))


def after_fault(
    config: ConfigDict, place: Path, error: InputError | FloatingPointError
) -> Path | InputError | None:
    """Says what the other cells of a seed start from, after one that could not be run.

    Args:
        config: of that cell.
        place: its work directory.
        error: why it could not be run.

    Returns:
        The dense network that it trained to its end; None where another cell can train it; an error
        where the training itself failed, as it would in every other cell.
    """
    if config.init:
        return None
    if _has_begun(place):
        try:
            dense.require_trained(experiment.build(config, place, lambda: False))
        except InputError as unfinished:
            return unfinished
        return place / FOLDER
    if isinstance(error, FloatingPointError):
        return InputError(f"{place / FOLDER}: the dense network cannot be trained: {error}")
    return None


def _has_begun(place: Path) -> bool:
    return checkpoint.latest(place / FOLDER) is not None

"""The problem that a run puts to an allocator: layers, budget, and on demand all the rest."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax

from domino_jax.allocate.problem import Batch, Problem, Weights
from domino_jax.core.errors import InputError
from domino_jax.core.files import write_text
from domino_jax.run import checks, monitor
from domino_jax.run.dense import dense_network
from domino_jax.run.experiment import Experiment
from domino_jax.run.phases import train_batches
from domino_jax.run.steps import loss_of
from domino_jax.run.workdir import read_parts, update_json, writing
from domino_jax.train import loop
from domino_jax.train.losses import counting
from domino_jax.train.mesh import split_batch


def problem_of(
    exp: Experiment,
    begin: Callable[[], None],
    note: Callable[[str, Any], None] = lambda name, value: None,
    losses: Path | None = None,
) -> Problem:
    """Makes the problem of a run.

    Args:
        exp: the run.
        begin: called before the dense network is trained or read, for the first time only.
        note: takes what belongs to the results of the search.
        losses: a file that is recalled where the run has none of its name.
    """

    @cache
    def weights() -> Weights:
        begin()
        return Weights(*dense_network(exp))

    def batches(first: int, count: int) -> Iterator[Batch]:
        checks.require_filled(exp.config, exp.data, "search")
        require_data(exp, first + count)
        dataset = train_batches(exp.phases["search"])
        numbers = range(first, first + count)
        return (split_batch(exp.placement.mesh, dataset[number]) for number in numbers)

    def keep(name: str, text: str) -> None:
        if jax.process_index() == 0:
            with writing(exp.workdir):
                write_text(exp.workdir / name, text)

    def recall(name: str) -> str | None:
        path = exp.workdir / name
        if losses is not None and losses.name == name and not path.exists():
            path = losses
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None

    @contextmanager
    def progress(title: str, pieces: int, before: int) -> Iterator[Callable[[int, str], None]]:
        began = time.perf_counter()
        with _timed(exp, title), monitor.progress(title, pieces, before) as show:

            def checked(done: int, text: str) -> None:
                spent = time.perf_counter() - began
                left = spent * (pieces - done) / max(done - before, 1)
                show(done, f"{text}  {left:.0f} s left".strip())
                if exp.should_stop():
                    raise loop.Stopped(f"stopped at {title} {done}/{pieces}")

            yield checked

    return Problem(
        layers=exp.layers,
        budget=exp.budget,
        options=options_of(exp),
        weights=weights,
        loss=loss_of(exp, train=False),
        training_loss=loss_of(exp, train=True),
        labels_of=counting(exp.data.ignore_label),
        batches=batches,
        should_stop=exp.should_stop,
        progress=progress,
        keep=keep,
        recall=recall,
        note=note,
        beside=exp.beside,
        say=lambda line: monitor.console().print(line, markup=False, highlight=False),
    )


@contextmanager
def _timed(exp: Experiment, title: str) -> Iterator[None]:
    """Adds the seconds of a block to timing.json, those before it was stopped included."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if jax.process_index() == 0:
            path, name = exp.workdir / "timing.json", f"{title}_seconds"
            times = read_parts(path).get("search", {})
            spent = times.get(name, 0.0) + time.perf_counter() - began
            with writing(exp.workdir):
                update_json(path, search={**times, name: spent})


def require_data(exp: Experiment, count: int) -> None:
    """Refuses more batches than one pass over the data has: they would repeat.

    Raises:
        InputError: how many there are.
    """
    settings, size = exp.config.search, exp.data.train_size
    if count * settings.batch > size:
        raise InputError(
            f"search.calibration_batches: expected at most {size // settings.batch // 2} (twice as "
            f"many, of search.batch = {settings.batch}, are read of {size} training examples), got "
            f"{settings.calibration_batches}"
        )


def options_of(exp: Experiment) -> Mapping[str, Any]:
    """Returns what an allocator may read of the settings of the search."""
    return dict(exp.config.search.items())

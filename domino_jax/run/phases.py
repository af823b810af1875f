"""One phase of a run (dense training, search, sparse training): resume, log, save, time."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from domino_jax.core.errors import InputError
from domino_jax.data import Batches, Data, stream
from domino_jax.run import checkpoint, checks, host, monitor, repairs, workdir
from domino_jax.run.background import background
from domino_jax.run.events import events
from domino_jax.run.provenance import PHASES
from domino_jax.train import loop, optim
from domino_jax.train.losses import Batch
from domino_jax.train.mesh import split_batch
from domino_jax.train.placement import Placement, place

Scalars = Mapping[str, float]


@dataclass(frozen=True)
class Phase:
    """A phase and where it runs.

    Attributes:
        name: 'dense', 'search' or 'train': also its folder in the work directory.
        number: phases see different batches and random keys.
        config: all settings.
        workdir: of the run.
        data: of the run.
        placement: of the arrays on all devices.
        rate: step -> learning rate; that of a search is constant.
        should_stop: asked before every step.
    """

    name: str
    number: int
    config: ConfigDict
    workdir: Path
    data: Data
    placement: Placement
    rate: Callable[[Any], Any]
    should_stop: Callable[[], bool]

    @property
    def folder(self) -> Path:
        """Where checkpoints and events of the phase go."""
        return self.workdir / self.name

    @property
    def settings(self) -> ConfigDict:
        """The part of the config that is named like the phase."""
        return self.config[self.name]

    @property
    def key(self) -> jax.Array:
        """Random key of the phase."""
        return jax.random.fold_in(jax.random.key(self.config.seed), self.number)


def make_phase(
    name: str,
    config: ConfigDict,
    workdir: Path,
    data: Data,
    placement: Placement,
    should_stop: Callable[[], bool],
) -> Phase:
    """Makes a phase of a run."""
    rate = _rate(config[name], data)
    return Phase(name, PHASES.index(name), config, workdir, data, placement, rate, should_stop)


def planned_steps(phase: Phase) -> int:
    """Counts the steps of the epochs that are asked for; the last epoch is rounded."""
    return _steps(phase.settings, phase.data)


def _steps(settings: ConfigDict, data: Data) -> int:
    if settings.epochs == 0:
        return 0
    return max(1, round(settings.epochs * data.train_size / settings.batch))


def _rate(settings: ConfigDict, data: Data) -> Callable[[Any], Any]:
    if "schedule" not in settings:
        return lambda step: settings.lr
    warmup = round(settings.warmup_epochs * data.train_size / settings.batch)
    return optim.learning_rate(settings.schedule, settings.lr, _steps(settings, data), warmup)


def train_batches(phase: Phase) -> Batches:
    """Returns this process's training batches of a phase, by step."""
    return phase.data.train(
        phase.config.seed + phase.number,
        phase.settings.batch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def calibration_batches(phase: Phase) -> Iterator[Batch]:
    """Returns the first `calibration_batches` batches of a phase, the same ones at every call.

    Raises:
        InputError: one pass over the data has fewer: they would repeat.
    """
    checks.require_filled(phase.config, phase.data, phase.name)
    settings, size = phase.settings, phase.data.train_size
    count, batch = settings.calibration_batches, settings.batch
    if count * batch > size:
        raise InputError(
            f"{phase.name}.calibration_batches: expected at most {size // batch} (of "
            f"{phase.name}.batch = {batch}, from {size} training examples), got {count}"
        )
    dataset = train_batches(phase)
    return (split_batch(phase.placement.mesh, dataset[number]) for number in range(count))


def resume(phase: Phase, state: Any) -> Any:
    """Returns the last saved state of the phase; the given one if there is none. On all devices."""
    state = place(phase.placement, state)
    if checkpoint.latest(phase.folder) is None:
        return state
    return checkpoint.restore(phase.folder, state)


@contextmanager
def running(
    phase: Phase,
    title: str,
    *,
    start: int,
    steps: int,
    describe: Callable[[int, Any], tuple[str, Scalars]],
) -> Iterator[tuple[Iterator[Batch], loop.Hooks]]:
    """Opens batches, progress bar, events and checkpoints of a phase from step `start` on.

    Args:
        phase: what runs.
        title: of the progress bar.
        start: first step.
        steps: where the phase ends at the latest.
        describe: (step, state) -> text for the bar and scalars for TensorBoard.

    Checkpoints are written in a thread, from a copy on the host, while the next steps run; the one
    before and the last one are waited for. Several processes write theirs between two steps: their
    barriers must not cross those of a step.

    Yields:
        The batches and the hooks for the loop; times are written with every checkpoint.
    """
    waited = [0.0]
    dataset = train_batches(phase)

    def batches(source: Iterator[Any]) -> Iterator[Batch]:
        for step in itertools.count(start):
            asked = time.perf_counter()
            batch = next(source)
            waited[0] += time.perf_counter() - asked
            checks.require_labels(batch, phase.data, f"training batch {step}", phase.config.loss)
            yield split_batch(phase.placement.mesh, batch)

    with (
        repairs.noting(phase.workdir, phase.data),
        checks.explained(phase.folder, title, phase.rate, dataset),
        monitor.progress(title, steps, start) as show,
        events(phase.folder, start) as write,
        closing(stream(dataset, start, workers=phase.data.workers)) as source,
        background(f"save {phase.name}") as saving,
    ):

        def log(step: int, loss: float, state: Any) -> None:
            saving.check()
            with workdir.writing(phase.workdir):
                text, scalars = describe(step, state)
                show(step, f"loss {loss:.4f}  {text}")
                write(step, {"loss": loss, **scalars})

        times_at = _timer(phase, start, waited)

        def save(step: int, state: Any) -> None:
            held, times = host.snapshot(state), times_at(step)
            saving.start(lambda: _save(phase, step, held, times))
            if jax.process_count() > 1:
                saving.wait()

        yield (
            batches(source),
            loop.Hooks(
                log=log,
                save=save,
                should_stop=phase.should_stop,
                log_every=phase.config.log_every,
                checkpoint_every=phase.config.checkpoint_every,
            ),
        )


def _save(phase: Phase, step: int, state: Any, times: Scalars) -> None:
    """Writes a checkpoint, and then the times up to it."""
    with workdir.writing(phase.workdir):
        checkpoint.save(phase.folder, step, state)
    if times:
        with workdir.writing(phase.workdir):
            workdir.update_json(phase.workdir / "timing.json", **{phase.name: times})


def _timer(phase: Phase, start: int, waited: Sequence[float]) -> Callable[[int], Scalars]:
    """Makes times(step): those of the phase, the ones before it was resumed included.

    Written with every checkpoint: the time of steps that a killed process lost does not count.
    """
    before = workdir.read_json(phase.workdir / "timing.json").get(phase.name, {}) if start else {}
    seconds, steps = before.get("seconds", 0.0), before.get("steps", 0)
    waiting = seconds * before.get("share_waiting_for_data", 0.0)
    began = time.perf_counter()

    def times(step: int) -> Scalars:
        if step == start:
            return {}
        spent, steps_done = seconds + time.perf_counter() - began, steps + step - start
        return {
            "seconds": spent,
            "steps": steps_done,
            "steps_per_second": steps_done / spent,
            "share_waiting_for_data": (waiting + waited[0]) / spent,
        }

    return times

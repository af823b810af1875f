"""Do the parts of a run fit together? Asked before anything is trained; and why a loss broke.

Letters: B examples, ... positions of an example, C outputs per position.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from domino_jax.core.errors import InputError
from domino_jax.core.finite import is_finite
from domino_jax.core.paths import leaves_by_path
from domino_jax.data import Batches, Data
from domino_jax.models import Model
from domino_jax.pytorch import hugging_face
from domino_jax.pytorch.state_dict import SUFFIXES
from domino_jax.run import checkpoint
from domino_jax.run.kinds import LARGEST_COUNT, LARGEST_NUMBER
from domino_jax.run.provenance import FILES
from domino_jax.run.workdir import (
    CURVE,
    PHASES,
    is_number,
    prepare,
    read_curve,
    read_parts,
    require_files,
    text_of,
)
from domino_jax.train import loop, mesh
from domino_jax.train.criteria import find_criterion


def require_usable(workdir: Path) -> None:
    """Refuses a work directory in which something would fail at the end of a run.

    Raises:
        InputError: a folder that is a file, a link to nothing or cannot be written, a file that is
            something else, a step without its manifest, or a JSON file or a curve that is broken.
    """
    require_files(workdir, (*FILES, f"search/{CURVE}"))
    for folder in (*PHASES, "train/sparse"):
        if os.path.lexists(workdir / folder):
            prepare(workdir / folder)
            checkpoint.require_steps(workdir / folder)
    read_curve(workdir / "search" / CURVE)
    results = workdir / "results.json"
    text_of(results, read_parts(results))  # as at the end, with what is added
    for phase, times in read_parts(workdir / "timing.json").items():
        for name, value in times.items():
            if not is_number(value) or not 0 <= value <= LARGEST_NUMBER:
                where = f"{workdir / 'timing.json'}: {phase}, {name!r}"
                raise InputError(f"{where}: expected a number, got {value!r}")


def require_batches(config: ConfigDict) -> None:
    """Refuses batches that the devices, or the parts of a step, cannot share.

    Raises:
        InputError: the setting, and what is allowed.
    """
    parts, _ = mesh.axis_sizes(config.mesh.data, config.mesh.model)
    for phase in PHASES:
        batch = config[phase].batch
        mesh.require_divides(batch, parts, f"{phase}.batch")
        if batch % (parts * config.accumulate):
            raise InputError(
                f"{phase}.batch: expected a multiple of accumulate = {config.accumulate} times the "
                f"{parts} part(s) of mesh.data, got {batch}"
            )


def require_wide(params: Any) -> None:
    """Refuses to train weights in less than float32: most steps are smaller than what they hold.

    Raises:
        InputError: one of them, and what to do.
    """
    for path, leaf in leaves_by_path(params).items():
        if jax.dtypes.issubdtype(leaf.dtype, np.floating) and leaf.dtype.itemsize < 4:
            raise InputError(
                f"model.param_dtype: expected float32 weights to train, got {leaf.dtype} of "
                f"{path}; the methods without training take them as they are"
            )


def require_filled(config: ConfigDict, data: Data, phase: str) -> None:
    """Refuses a phase that will run, and whose batch or number of steps the data set cannot give.

    Raises:
        InputError: the setting, and what is allowed.
    """
    batch = config[phase].batch
    if batch > data.train_size:
        raise InputError(
            f"{phase}.batch: expected at most the {data.train_size} training examples of "
            f"{config.data.name!r}, got {batch}"
        )
    epochs = config[phase].get("epochs", 0)
    if epochs * data.train_size / batch > LARGEST_COUNT:
        raise InputError(
            f"{phase}.epochs: expected at most {LARGEST_COUNT} steps of {batch} of the "
            f"{data.train_size} training examples, got {epochs:g} epochs"
        )


def require_outputs(name: str, model: Model, data: Data) -> None:
    """Refuses a network that does not return (outputs [B, ..., C], stats) with C >= classes.

    Raises:
        InputError: what it returns, or why it does not (see `models.create`).
    """

    def train(params: Any, stats: Any, inputs: Any) -> Any:
        return model.apply(params, stats, inputs, train=True, key=jax.random.key(0))

    # Two examples: batch norms refuse to train on a single value for each channel.
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), data.example)
    result = jax.eval_shape(train, model.params, model.stats, two)
    if not isinstance(result, tuple) or len(result) != 2:
        raise InputError(f"model {name!r}: expected (outputs, stats) of apply, got {_kind(result)}")
    outputs, stats = result
    shape = getattr(outputs, "shape", None)
    if not shape or shape[-1] < data.classes:
        got_outputs = f"outputs {_kind(outputs)}" if shape is None else f"outputs of shape {shape}"
        raise InputError(
            f"model {name!r}: expected an array of outputs [B, ..., C] with C of at least the "
            f"{data.classes} classes of the data, got {got_outputs}"
        )
    if shape[0] != 2:
        raise InputError(
            f"model {name!r}: apply must keep the examples along the first axis of its outputs: "
            f"of 2 examples it makes outputs of shape {shape}"
        )
    expected, returned = _specs(model.stats), _specs(stats)
    for path in [*expected, *returned]:
        if expected.get(path) != returned.get(path):
            raise InputError(
                f"model {name!r}: apply must return stats like those of the model, where {path!r} "
                f"is {expected.get(path, 'absent')}; got {returned.get(path, 'none')}"
            )


def require_init(init: str, template: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of the dense network that is missing or of another network.

    Args:
        init: the setting; '' is none.
        template: as for `checkpoint.restore_parts`.

    Raises:
        InputError: where it was looked for, and what is wrong.
    """
    if not init:
        return
    path = Path(init)
    if not path.is_dir():
        reason = "is no folder" if path.exists() else "does not exist"
        raise InputError(
            f"init: {init} {reason}; expected a folder that holds checkpoints, or a file that ends "
            f"in {' or '.join(SUFFIXES)}"
        )
    inside = [str(sub) for sub in sorted(path.iterdir()) if checkpoint.latest(sub) is not None]
    if inside and checkpoint.latest(path) is None:
        raise InputError(f"init: {init} is no checkpoint, but has some in {', '.join(inside)}")
    try:
        checkpoint.require_fits(path, template)
    except ValueError as error:
        raise InputError(f"init: {error}") from None


def require_folder(config: ConfigDict) -> None:
    """Refuses an `init` that the network is to be made of and is no folder of a language model.

    Asked before the data, which may take long to open and want a tokenizer of the same folder.

    Raises:
        InputError: what is expected, and what to do with what came.
    """
    if config.model.get("folder") == config.init:
        hugging_face.config_of(config.init)


def require_made_of_init(config: ConfigDict) -> None:
    """Refuses a folder of Hugging Face that the network was not made of.

    Raises:
        InputError: the settings that go with such a folder.
    """
    folder = config.model.get("folder") or ""
    if not folder or Path(folder).resolve() != Path(config.init).resolve():
        raise InputError(
            f"init: {config.init} is a folder of Hugging Face: expected model.name='causal_lm' and "
            f"model.folder the same folder, as in configs/causal_lm.py, got {config.model.name!r} "
            f"and {folder!r}"
        )
    if config.train.start == "random":
        raise InputError(
            f"train.start: expected 'dense', since {config.init} gives the weights, got 'random'"
        )


def require_votes(settings: ConfigDict, votes: int) -> None:
    """Refuses a search that would end before it could reach its budget.

    Args:
        settings: of the search.
        votes: those that it needs at the least.

    Raises:
        InputError: the steps that it needs at the least.
    """
    needed = (votes - 1) * settings.vote_every + 1  # the first step votes
    if settings.max_steps < needed:
        raise InputError(
            f"search.max_steps: expected {needed} or more, since the budget needs {votes} votes, "
            f"one every {settings.vote_every} steps; got {settings.max_steps}"
        )


def require_labels(batch: Mapping[str, Any], data: Data, name: str, loss: str) -> None:
    """Refuses a batch without labels that the loss takes: it would be NaN or plainly wrong.

    Args:
        batch: what is trained on or evaluated.
        data: its classes, and its label to ignore.
        name: of the batch, such as 'training batch 3'.
        loss: the setting.

    Raises:
        InputError: what its labels are.
    """
    missing = [key for key in ("inputs", "labels") if key not in batch]
    if missing:
        raise InputError(f"{name} of the data has no {missing[0]!r}, only {sorted(batch)}")
    labels, ignore = np.asarray(batch["labels"]), data.ignore_label
    criterion = find_criterion(loss)
    right = criterion.allows(labels, data.classes)
    if ignore is not None:
        right |= labels == ignore
    if not right.all():
        other = "" if ignore is None else f", or {ignore}, which does not count"
        raise InputError(
            f"{name} of the data: expected {criterion.expected(data.classes)}{other}, got "
            f"{labels.dtype} from {labels.min()} to {labels.max()}"
        )


def require_finite_inputs(batch: Mapping[str, Any], name: str) -> None:
    """Refuses a batch whose inputs are not finite: a ReLU may hide that from the loss.

    Asked of test sets alone: a training set is read over and over, too much for every step.

    Raises:
        InputError: the batch.
    """
    if not _has_finite_inputs(batch):
        raise InputError(f"{name} of the data: expected finite inputs, got NaN or infinity")


@contextmanager
def explained(
    folder: Path, what: str, rates: Callable[[int], Any], dataset: Batches
) -> Iterator[None]:
    """Adds to a loss that broke what a person needs to know.

    Args:
        folder: of the checkpoints.
        what: is running.
        rates: step -> learning rate.
        dataset: batches by step.

    Raises:
        FloatingPointError: with the step, its learning rate, and where the last checkpoint is.
    """
    try:
        yield
    except loop.Diverged as error:
        saved = checkpoint.latest(folder)
        kept = (
            f"the last good checkpoint, of step {saved}, stays in {folder}"
            if saved is not None
            else "no checkpoint was saved before"
        )
        rate = f"at the learning rate {float(rates(error.step)):.4g} ({folder.name}.lr)"
        cause = (
            "" if _has_finite_inputs(dataset[error.step]) else "; its inputs are NaN or infinite"
        )
        raise FloatingPointError(f"{what}: {error}, {rate}{cause}; {kept}") from error


def _has_finite_inputs(batch: Mapping[str, Any]) -> bool:
    return all(map(is_finite, jax.tree.leaves(batch["inputs"])))


def _specs(tree: Any) -> dict[str, str]:
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return {p: f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in leaves_by_path(shapes).items()}


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"

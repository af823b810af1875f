"""From a config to the parts of a run: data, model, layers, cost, and the dense network."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from domino_jax import __version__
from domino_jax import data as _data
from domino_jax import models as _models
from domino_jax.allocate.uniform import uniform_nm
from domino_jax.core import costs, published, scheme
from domino_jax.core.errors import InputError
from domino_jax.core.finite import require_finite
from domino_jax.core.kernels import signatures
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import PATTERNS
from domino_jax.core.scheme import NM, Scheme
from domino_jax.pytorch import hugging_face, state_dict
from domino_jax.run import checks, memory, monitor, repairs
from domino_jax.run.kinds import EVERY
from domino_jax.run.phases import Phase, calibration_batches, make_phase, planned_steps
from domino_jax.run.provenance import PHASES
from domino_jax.run.settings import check
from domino_jax.run.workdir import prepare
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.layers import group_kernels
from domino_jax.train import evaluation, loop
from domino_jax.train import mesh as devices
from domino_jax.train.criteria import find_criterion
from domino_jax.train.placement import Placement, placement_of
from domino_jax.train.trainer import Trainer, Training
from domino_jax.train.trainers import make_trainer

OBJECTIVES: Mapping[str, costs.Cost] = {"params": costs.count_weights, "macs": costs.count_macs}


@dataclass(frozen=True)
class Experiment:
    """The parts of one run; nothing in it changes.

    Attributes:
        config: all settings.
        workdir: where everything is written.
        data: the data set.
        model: the network with fresh weights.
        layers: of the network, in the order of first use.
        budget: what the scheme may cost.
        beside: further budgets that hold too.
        placement: of the arrays on all devices.
        phases: by name: 'dense', 'search', 'train'.
        training: what the trainer of the sparse network is made for; its loss needs trained batch
            statistics, and comes with them.
        trainer: of the sparse network, which may need that loss.
        should_stop: asked before every step.
    """

    config: ConfigDict
    workdir: Path
    data: _data.Data
    model: _models.Model
    layers: tuple[LayerSpec, ...]
    budget: costs.Budget
    beside: tuple[costs.Budget, ...]
    placement: Placement
    phases: Mapping[str, Phase]
    training: Training
    trainer: Trainer
    should_stop: Callable[[], bool]


def build(config: ConfigDict, workdir: Path, should_stop: Callable[[], bool]) -> Experiment:
    """Makes the parts that a config names; nothing is trained.

    Raises:
        InputError: a setting is wrong.
    """
    check(config)
    devices.require_devices()
    prepare(workdir)
    checks.require_usable(workdir)
    _models.factory(config.model.name)  # before the data, which may take long to open
    checks.require_folder(config)
    data = _data.create(config.data.name, data_dir=config.data.dir, **data_options(config))
    repairs.require_readable(workdir, data)
    data = repairs.settled(workdir, data)
    exp = assemble(config, workdir, data, should_stop)
    memory.give_back_of(sum(leaf.nbytes for leaf in jax.tree.leaves(exp.model.params)))
    repairs.record(workdir, data)
    return exp


def data_options(config: ConfigDict) -> dict[str, Any]:
    """Returns what of the config goes to the data set besides its folder."""
    return {key: value for key, value in config.data.items() if key not in ("name", "dir")}


def model_options(config: ConfigDict) -> dict[str, Any]:
    """Returns what of the config goes to the network besides its seed."""
    return {key: value for key, value in config.model.items() if key != "name"}


def assemble(
    config: ConfigDict, workdir: Path, data: _data.Data, should_stop: Callable[[], bool]
) -> Experiment:
    """Makes the parts of a run on opened data; writes nothing.

    Raises:
        InputError: a setting is wrong.
    """
    checks.require_batches(config)
    find_criterion(config.loss)
    if not config.init:
        checks.require_filled(config, data, "dense")
    model = _models.create(
        config.model.name,
        example=data.example,
        classes=data.classes,
        seed=config.seed,
        **model_options(config),
    )
    require_finite(f"model {config.model.name!r}", weights_of(model))
    checks.require_outputs(config.model.name, model, data)
    layers = layers_of(model, data.example, config.search)
    if state_dict.is_torch_file(config.init):
        # Refuses it before anything is done.
        torch_weights(config, model, layers, say=monitor.say)
    elif hugging_face.is_folder(config.init):
        checks.require_made_of_init(config)
    else:
        checks.require_init(config.init, weights_of(model))
    budget = _budget(config.search, layers, _cost(config.search.objective, layers))
    beside = _beside(config.search, layers)
    mesh = devices.make_mesh(config.mesh.data, config.mesh.model)
    placement = placement_of(mesh, layers, model.params)
    if placement.whole:
        some = ", ".join(placement.whole[:3])
        monitor.say(f"mesh.model: {len(placement.whole)} large weights cannot be split: {some}")
    phases = {
        name: make_phase(name, config, workdir, data, placement, should_stop) for name in PHASES
    }
    training = _training(config.train, layers, phases["train"])
    trainer = make_trainer(config.train.method, training)
    if trainer.update is not None and config.train.epochs:  # also where search.py runs first
        checks.require_filled(config, data, "train")
    return Experiment(
        config,
        workdir,
        data,
        model,
        layers,
        budget,
        beside,
        placement,
        phases,
        training,
        trainer,
        should_stop,
    )


def _training(settings: ConfigDict, layers: tuple[LayerSpec, ...], phase: Phase) -> Training:
    return Training(
        layers,
        planned_steps(phase),
        phase.rate,
        dict(settings.items()),
        PATTERNS[settings.pattern],
        batches=partial(calibration_batches, phase),
        say=monitor.say,
        progress=lambda title, pieces: monitor.progress(title, pieces, 0, unit="layers"),
    )


def _budget(search: ConfigDict, layers: tuple[LayerSpec, ...], cost: costs.Cost) -> costs.Budget:
    """Makes the budget that the settings say, in whatever words.

    Raises:
        InputError: it is no budget of these layers.
    """
    if search.nm:
        allowed = costs.total_cost(layers, cost, uniform_nm(layers, NM.parse(search.nm)))
        return costs.Budget(float(allowed / costs.total_cost(layers, cost)), cost, allowed)
    return costs.budget_of(layers, search.budget, cost, movable=search.budget_of == "movable")


def _cost(objective: str, layers: tuple[LayerSpec, ...]) -> costs.Cost:
    return OBJECTIVES.get(objective) or costs.read_table(objective, layers)


def _beside(search: ConfigDict, layers: tuple[LayerSpec, ...]) -> tuple[costs.Budget, ...]:
    """Makes the budgets of `search.budgets`.

    Raises:
        InputError: with the setting; one is no budget of these layers.
    """
    movable = search.budget_of == "movable"
    try:
        return tuple(
            costs.budget_of(layers, amount, _cost(objective, layers), movable=movable)
            for objective, amount in search.budgets
        )
    except InputError as error:
        raise InputError(f"search.budgets: {error}") from None


def read_scheme(path: Path, layers: tuple[LayerSpec, ...]) -> Scheme:
    """Reads a scheme file for the layers of a network: ours, or the paper's text (`.txt`).

    Raises:
        InputError: it cannot be read, or the text is of another network.
    """
    if path.suffix.lower() == published.SUFFIX:
        return published.load_published(path, signatures(layers))
    return scheme.load(path)


def layers_of(model: _models.Model, example: Any, search: ConfigDict) -> tuple[LayerSpec, ...]:
    """Finds the layers of a model under the settings of a search."""
    return group_under(find_kernels(forward_of(model), model.params, example), search)


def group_under(kernels: Sequence[LayerSpec], search: ConfigDict) -> tuple[LayerSpec, ...]:
    """Makes groups of the kernels of a model under the settings of a search."""
    rules = (*search.rules, ("", "shrink")) if search.shrink_m else search.rules
    every = search.candidates == EVERY
    candidates = tuple(range(1, search.m + 1)) if every else search.candidates
    return group_kernels(kernels, search.m, rules, candidates=candidates)


def forward_of(model: _models.Model) -> Callable[[Any, Any], Any]:
    """Makes the forward pass of evaluation: (params, inputs) -> outputs."""

    def forward(params: Any, inputs: Any) -> Any:
        key = jax.random.key(0)  # drawn from by nothing in evaluation mode
        return model.apply(params, model.stats, inputs, train=False, key=key)[0]

    return forward


def torch_weights(
    config: ConfigDict,
    model: _models.Model,
    layers: tuple[LayerSpec, ...],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, Any]:
    """Reads the state dict that `init` names; without `init_head` the last layer stays fresh.

    What of it was changed to fit is told to `say`.

    Raises:
        InputError: the file is broken or of another network.
    """
    fresh = None if config.init_head else state_dict.head_of(layers)
    weights = state_dict.restore(
        config.init, model.params, model.stats, layers, fresh=fresh, say=say
    )
    require_finite(config.init, weights)
    return weights


def weights_of(model: _models.Model) -> dict[str, Any]:
    """Returns what a checkpoint of a network holds, as NumPy arrays: a template to restore it."""
    return jax.tree.map(np.asarray, {"params": model.params, "stats": model.stats})


def until_stopped(exp: Experiment, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields batches of an evaluation, after which nothing is to be saved.

    Raises:
        Stopped: the run was asked to stop.
    """
    for batch in batches:
        if exp.should_stop():
            raise loop.Stopped("stopped in an evaluation")
        yield batch


def _checked(exp: Experiment, test: Iterable[Any]) -> Iterator[Any]:
    for number, batch in enumerate(until_stopped(exp, test)):
        checks.require_labels(batch, exp.data, f"test batch {number}", exp.config.loss)
        checks.require_finite_inputs(batch, f"test batch {number}")
        yield batch


def evaluator(exp: Experiment) -> Callable[[Any, Any], dict[str, float]]:
    """Makes (params, stats) -> numbers on the test set, compiled once; see `evaluation.evaluate`.

    The weights lie on the devices of the run.

    Raises:
        InputError: of the function: an array or a number of the result is not finite.
    """
    criterion = find_criterion(exp.config.loss)
    step = evaluation.eval_step(exp.model.apply, exp.data.ignore_label, criterion)
    part = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def evaluate(params: Any, stats: Any) -> dict[str, float]:
        require_finite("evaluation", {"params": params, "stats": stats})
        test = exp.data.evaluate(exp.config.dense.batch, **part)
        batches = (devices.split_batch(exp.placement.mesh, batch) for batch in _checked(exp, test))
        with repairs.noting(exp.workdir, exp.data):
            numbers = evaluation.evaluate(step, params, stats, batches)
        numbers |= criterion.derived(numbers)
        require_finite("evaluation, numbers on the test set", numbers)
        return numbers

    return evaluate


def versions() -> dict[str, str]:
    """Lists the versions that a result depends on."""
    from importlib.metadata import version  # noqa: PLC0415 (only when a run ends)

    names = ("jax", "flax", "optax", "numpy", "grain", "tensorflow-datasets")
    images = ("pillow", "opencv-python-headless")
    others = {name: version(name) for name in (*names, *images)}
    return {"domino-jax": __version__, "python": platform.python_version(), **others}

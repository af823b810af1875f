"""From a config to the parts of a run: data, model, layers, cost, and the dense network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from domino_jax import __version__, budget, checkpoint, devices, loop, losses, optim
from domino_jax import data as _data
from domino_jax import models as _models
from domino_jax.layers import LayerSpec, find_layers
from domino_jax.phases import Phase, planned_steps, rate_of, resume, running
from domino_jax.settings import check
from domino_jax.workdir import prepare

OBJECTIVES: Mapping[str, budget.Cost] = {"params": budget.weights, "macs": budget.macs}
PHASES = ("dense", "search", "train")


@dataclass(frozen=True)
class Experiment:
    """The parts of one run; nothing in it changes.

    Attributes:
        config: all settings.
        workdir: where everything is written.
        data: the data set.
        model: the network with fresh weights.
        layers: of the network, in the order of first use.
        cost: what the budget counts.
        should_stop: asked before every step.
    """

    config: ConfigDict
    workdir: Path
    data: _data.Data
    model: _models.Model
    layers: tuple[LayerSpec, ...]
    cost: budget.Cost
    should_stop: Callable[[], bool]

    def phase(self, name: str) -> Phase:
        """Returns one phase of this run: 'dense', 'search' or 'train'."""
        number = PHASES.index(name)
        return Phase(name, number, self.config, self.workdir, self.data, self.should_stop)


def build(config: ConfigDict, workdir: Path, should_stop: Callable[[], bool]) -> Experiment:
    """Makes the parts that a config names; nothing is trained.

    Raises:
        ValueError: a setting is wrong.
    """
    check(config)
    prepare(workdir)
    for part in PHASES:
        devices.require_divides(config[part].batch, f"{part}.batch")
    options = {key: value for key, value in config.data.items() if key not in ("name", "dir")}
    data = _data.create(config.data.name, data_dir=config.data.dir, **options)
    options = {key: value for key, value in config.model.items() if key != "name"}
    model = _models.create(
        config.model.name, example=data.example, classes=data.classes, seed=config.seed, **options
    )
    layers = layers_of(model, data.example, config.search)
    objective = config.search.objective
    cost = OBJECTIVES.get(objective) or budget.read_table(objective, layers)
    return Experiment(config, workdir, data, model, layers, cost, should_stop)


def layers_of(model: _models.Model, example: Any, search: ConfigDict) -> tuple[LayerSpec, ...]:
    """Finds the layers of a model under the settings of a search."""

    def forward(params: Any, inputs: Any) -> Any:
        key = jax.random.key(0)  # drawn from by nothing in evaluation mode
        return model.apply(params, model.stats, inputs, train=False, key=key)[0]

    return find_layers(forward, model.params, example, search.m, search.rules, search.candidates)


def dense_weights(exp: Experiment) -> tuple[Any, Any]:
    """Returns the dense network's params and stats: of `init`, of the work directory, or trained.

    Raises:
        ValueError: the checkpoint does not fit the network.
    """
    template = jax.tree.map(np.asarray, {"params": exp.model.params, "stats": exp.model.stats})
    if not exp.config.init:
        _train_dense(exp)
    found = checkpoint.restore_parts(exp.config.init or exp.workdir / "dense", template)
    return found["params"], found["stats"]


def _train_dense(exp: Experiment) -> None:
    phase = exp.phase("dense")
    steps, settings, rate = planned_steps(phase), phase.settings, rate_of(phase)
    if (checkpoint.latest(phase.folder) or 0) >= steps:
        return
    tx = optim.dense_optimizer(settings.optimizer, rate, settings.momentum, settings.weight_decay)
    loss = losses.cross_entropy(settings.label_smoothing)
    state = resume(phase, loop.init_state(exp.model.params, exp.model.stats, tx))
    with running(
        phase,
        "dense training",
        start=int(state.step),
        steps=steps,
        describe=lambda step, _: ("", {"learning_rate": float(rate(step - 1))}),
    ) as (batches, hooks):
        step = loop.dense_step(
            exp.model.apply, loss, tx, sharding=devices.replicated(devices.make_mesh())
        )
        loop.run_train(step, state, None, batches, phase.key, steps=steps, hooks=hooks)


def accuracy(exp: Experiment, params: Any, stats: Any) -> dict[str, float]:
    """Evaluates params and stats on the test set: 'accuracy' and 'loss'."""
    mesh = devices.make_mesh()
    part = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    test = exp.data.evaluate(exp.config.dense.batch, **part)
    batches = (devices.split_batch(mesh, batch) for batch in test)
    step = loop.eval_step(exp.model.apply)
    params, stats = devices.replicate(mesh, (params, stats))
    return loop.evaluate(step, params, stats, batches)


def versions() -> dict[str, str]:
    """Lists the versions that a result depends on."""
    from importlib.metadata import version  # noqa: PLC0415 (only when a run ends)

    others = {name: version(name) for name in ("jax", "flax", "optax", "numpy")}
    return {"domino-jax": __version__, **others}

"""One step of every phase on zeros of the data's shapes: does a config fit together?

Nothing is downloaded, prepared or written. A step that a small machine makes in seconds is made;
one of a larger network is only lowered from abstract shapes, which executes nothing.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from domino_jax import data as _data
from domino_jax.allocate.dense import dense_scheme
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.search import Search
from domino_jax.allocate.table import allocate
from domino_jax.core import costs
from domino_jax.core.errors import escaped
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import Scheme
from domino_jax.data.pipeline import evaluate_batches, train_batches
from domino_jax.run import checks, monitor
from domino_jax.run.experiment import Experiment, assemble, data_options, read_scheme
from domino_jax.run.phases import planned_steps
from domino_jax.run.problem import options_of, require_data
from domino_jax.run.settings import check
from domino_jax.run.steps import Parts, dense_parts, search_parts, teacher, train_parts
from domino_jax.train import mesh as devices
from domino_jax.train.placement import place
from domino_jax.train.step import first_state

LARGEST_STEP = 2e10  # multiply-adds of forward and backward pass: seconds on two cores
PASSES = 3  # forward, and backward for inputs and for weights


def rehearse(config: ConfigDict) -> None:
    """Tries each phase of a config, and prints what it would do.

    Raises:
        InputError: a setting is wrong, or the parts do not fit together.
    """
    check(config)
    checks.require_folder(config)
    spec = _data.spec(config.data.name, data_dir=config.data.dir, **data_options(config))
    exp = assemble(config, Path(), _zeros(spec), lambda: False)
    answer = _answer(exp)
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    for title in ("phase", "steps", "batch", "MACs, both passes"):
        table.add_column(title, justify="left" if title == "phase" else "right", no_wrap=True)
    table.add_column("one step", no_wrap=True)
    for name, parts, target in _phases(exp, searches=isinstance(answer, Search)):
        phase = exp.phases[name]
        checks.require_filled(config, exp.data, name)
        steps = f"{planned_steps(phase):,}" if "epochs" in phase.settings else "-"
        work = PASSES * phase.settings.batch * int(costs.total_cost(exp.layers, costs.count_macs))
        outcome = _try(exp, name, parts, target, executed=work <= LARGEST_STEP)
        table.add_row(name, steps, f"{phase.settings.batch:,}", f"{work:.2g}", outcome)
    out = monitor.console()
    out.print(table)
    weights = int(costs.total_cost(exp.layers, costs.count_weights))
    macs = int(costs.total_cost(exp.layers, costs.count_macs))
    out.print(
        f"{escaped(config.model.name)}: {weights:,} weights, {macs:,} MACs an example in its layers"
    )
    if isinstance(answer, Mapping):
        kept = costs.kept_share(exp.layers, costs.count_weights, answer)
        out.print(
            f"{escaped(config.scheme or config.search.method)}: keeps {kept:.2%} of the weights"
        )


def _zeros(spec: _data.Spec) -> _data.Data:
    """Makes a data set of a spec that needs no memory: each example is zeros, with label 0."""
    record = {
        "inputs": np.zeros(spec.example.shape[1:], spec.example.dtype),
        "labels": np.zeros(spec.label.shape[1:], spec.label.dtype),
    }
    return _data.Data(
        train=partial(train_batches, [record] * spec.train_size),
        evaluate=partial(evaluate_batches, [record]),
        example=spec.example,
        classes=spec.classes,
        train_size=spec.train_size,
        test_size=spec.test_size,
    )


class _NeedsWeights(Exception):  # noqa: N818 (no error: an allocator asked, and a run has them)
    """An allocator asked for the dense network or for data, which a rehearsal does not have."""


def _answer(exp: Experiment) -> Scheme | Search | None:
    """Returns the scheme or the search of the run; None where only trained weights tell.

    Raises:
        InputError: the budget is out of reach, or the scheme is of another network.
    """
    settings = exp.config.search
    if exp.config.scheme:
        scheme = read_scheme(Path(exp.config.scheme), exp.layers)
        n_by_path(scheme, exp.layers)
        return scheme

    def weights() -> Any:
        raise _NeedsWeights

    def batches(first: int, count: int) -> Any:
        require_data(exp, first + count)
        raise _NeedsWeights

    problem = Problem(
        exp.layers, exp.budget, options_of(exp), weights, batches=batches, beside=exp.beside
    )
    try:
        answer = allocate(settings.method, problem)
    except _NeedsWeights:
        return None
    if isinstance(answer, Search):
        checks.require_votes(settings, answer.fewest_votes)
    return answer


def _phases(exp: Experiment, *, searches: bool) -> Iterator[tuple[str, Parts, Any]]:
    """Yields the phases of a run: name, trainer and step, and what its target is made from."""
    n = n_by_path(dense_scheme(exp.layers), exp.layers)
    if not exp.config.init:
        yield "dense", dense_parts(exp), None
    if searches:
        pace = {path: jnp.ones(np.shape(kept), float) for path, kept in n.items()}
        yield "search", search_parts(exp), {"n": n, "pace": pace}
    # It has no data to score weights by; masks by magnitude cost the same.
    options = {**exp.training.options, "score": None}
    parts = train_parts(exp, exp.training._replace(options=options))
    if parts.trainer.update is not None and planned_steps(exp.phases["train"]):
        yield "train", parts, n


def _try(
    exp: Experiment,
    name: str,
    parts: Parts,
    target: Any,
    *,
    executed: bool,
) -> str:
    """Makes one step, or lowers it; returns what came of it."""
    trainer, step = parts
    began = time.perf_counter()

    def arguments(params: Any, stats: Any) -> tuple[Any, ...]:
        batch = {
            key: jnp.zeros((exp.config[name].batch, *of.shape[1:]), of.dtype)
            for key, of in exp.data.train(0, 1)[0].items()
        }
        if name == "train":
            batch = dict(teacher(exp, params, stats)(batch))
        first = trainer.init(params, target)
        state = first_state(first.params, stats, first.state)
        return state, first.target, batch, jax.random.key(exp.config.seed)

    model = exp.model
    if not executed:
        step.lower(*jax.eval_shape(arguments, model.params, model.stats))  # type: ignore[attr-defined]
        return f"lowered in {time.perf_counter() - began:.1f} s, not executed"
    state, placed, batch, key = arguments(model.params, model.stats)
    state, placed = place(exp.placement, (state, placed))
    state, loss = step(state, placed, devices.split_batch(exp.placement.mesh, batch), key)
    return f"loss {float(loss):.4f}, {time.perf_counter() - began:.1f} s with its compilation"

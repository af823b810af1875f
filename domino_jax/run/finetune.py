"""What train.py does: scheme and dense weights in, fine-tuned sparse weights and accuracies out."""

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from domino_jax.core import costs
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import Scheme
from domino_jax.data import stream
from domino_jax.run import checkpoint, monitor, provenance, workdir
from domino_jax.run.dense import dense_weights, train_dense
from domino_jax.run.experiment import Experiment, evaluate, read_scheme, until_stopped, weights_of
from domino_jax.run.phases import planned_steps, rate_of, resume, running, train_batches
from domino_jax.run.steps import train_parts
from domino_jax.train import evaluation, loop
from domino_jax.train import mesh as devices
from domino_jax.train.masking import apply_masks, make_masks

# PyTorch-style running averages forget all but 0.9**100 of what they start from.
RECALIBRATION_BATCHES = 100
SPARSE = "train/sparse"  # final weights, zeros in place

LINES = {
    "dense": "dense",
    "masked": "masked without training, dense batch statistics",
    "recalibrated": "masked without training, recalibrated batch statistics",
    "tuned": "fine-tuned",
}
COLUMNS = {  # of an evaluation: title and format
    "accuracy": ("accuracy", ".2%"),
    "top5": ("top-5", ".2%"),
    "loss": ("loss", ".4f"),
}


def train_scheme(exp: Experiment, *, anew: bool = False) -> None:
    """Trains the network under the scheme, and writes and prints the accuracies.

    Goes on from what the work directory holds, or forgets its training first if `anew`.

    Raises:
        InputError: the scheme is missing or belongs to another network, or the work directory was
            made with other settings.
    """
    found = _scheme(exp)
    data = exp.data.fingerprint
    provenance.require_train(exp.workdir, exp.config, found, data=data, anew=anew)
    n = _levels(exp, found)
    provenance.begin_train(exp.workdir, exp.config, found, data=data, anew=anew)
    train_dense(exp)
    dense = dense_weights(exp)
    fresh = exp.model.params, exp.model.stats
    state = _train(exp, *(fresh if exp.config.train.start == "random" else dense), n)
    sparse = {"params": masked(exp, state.params, n), "stats": state.stats}
    folder = exp.workdir / SPARSE
    if checkpoint.latest(folder) != int(state.step):
        workdir.require_held(exp.workdir)
        checkpoint.save(folder, int(state.step), sparse)
    _evaluate(exp, found, dense)


def evaluate_only(exp: Experiment) -> None:
    """Evaluates the dense network and whatever the work directory holds, and prints it.

    Raises:
        InputError: the dense network is not trained, there is no scheme, or the work directory
            was made with other settings.
    """
    found = _scheme(exp)
    provenance.require_train(exp.workdir, exp.config, found, data=exp.data.fingerprint)
    _levels(exp, found)
    dense = dense_weights(exp)
    provenance.begin_evaluation(exp.workdir, exp.config, found, data=exp.data.fingerprint)
    _evaluate(exp, found, dense)


def _path(exp: Experiment) -> Path:
    return Path(exp.config.scheme or exp.workdir / "scheme.json")


def _scheme(exp: Experiment) -> Scheme:
    path = _path(exp)
    if not path.exists():
        raise InputError(
            f"{path}: there is no scheme; run search.py first with the same --config and "
            "--workdir, or name another one by --config.scheme=FILE"
        )
    return read_scheme(path, exp.layers)


def _levels(exp: Experiment, found: Scheme) -> Any:
    try:
        return n_by_path(found, exp.layers)
    except ValueError as error:
        raise InputError(f"{_path(exp)}: {error}") from None


def _evaluate(exp: Experiment, found: Scheme, dense: tuple[Any, Any]) -> None:
    n = _levels(exp, found)
    results = _before(exp, *dense, n)
    folder = exp.workdir / SPARSE
    if checkpoint.latest(folder) is not None:
        saved = checkpoint.restore_parts(folder, weights_of(exp.model))
        results["tuned"] = evaluate(exp, saved["params"], saved["stats"])
    _write(exp, found, results)


def masked(exp: Experiment, params: Any, n: Any) -> Any:
    """Returns the weights under the masks of a scheme."""
    return jax.jit(lambda params: apply_masks(params, make_masks(params, exp.layers, n)))(params)


def _before(exp: Experiment, params: Any, stats: Any, n: Any) -> dict[str, dict[str, float]]:
    sparse = masked(exp, params, n)
    found = {"dense": evaluate(exp, params, stats), "masked": evaluate(exp, sparse, stats)}
    if jax.tree.leaves(stats):
        found["recalibrated"] = evaluate(exp, sparse, _recalibrated(exp, sparse, stats))
    return found


def _recalibrated(exp: Experiment, params: Any, stats: Any) -> Any:
    """Returns the batch statistics of the masked weights, from training batches."""
    mesh, dataset = devices.make_mesh(), train_batches(exp.phase("train"))
    weights, old = devices.replicate(mesh, (params, stats))
    with closing(stream(dataset, workers=exp.data.workers)) as source:
        some = until_stopped(exp, itertools.islice(source, RECALIBRATION_BATCHES))
        batches = (devices.split_batch(mesh, batch) for batch in some)
        return evaluation.recalibrate(exp.model.apply, weights, old, batches)


def _train(exp: Experiment, params: Any, stats: Any, n: Any) -> loop.TrainState:
    phase = exp.phase("train")
    steps, rate = planned_steps(phase), rate_of(phase)
    tx, step = train_parts(exp)
    control = n
    if phase.settings.method == "fixed":
        control = jax.jit(lambda params: make_masks(params, exp.layers, n))(params)
        params = apply_masks(params, control)
    state = resume(phase, loop.init_state(params, stats, tx))
    if int(state.step) >= steps:
        return state
    with running(
        phase,
        "fine-tuning",
        start=int(state.step),
        steps=steps,
        describe=lambda step, _: ("", {"learning_rate": float(rate(step - 1))}),
    ) as (batches, hooks):
        return loop.run_train(step, state, control, batches, phase.key, steps=steps, hooks=hooks)


def _write(exp: Experiment, found: Scheme, results: dict[str, dict[str, float]]) -> None:
    shares = {
        name: costs.kept_share(exp.layers, cost, found)
        for name, cost in (("weights", costs.count_weights), ("macs", costs.count_macs))
    }
    workdir.require_held(exp.workdir)
    workdir.update_json(exp.workdir / "results.json", train=results | {"shares": shares})
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    columns = [name for name in COLUMNS if name in results["dense"]]
    for name in columns:
        table.add_column(COLUMNS[name][0], justify="right", no_wrap=True)
    for name, numbers in results.items():
        line = LINES[name] if "recalibrated" in results else LINES[name].partition(",")[0]
        table.add_row(line, *(format(numbers[key], COLUMNS[key][1]) for key in columns))
    out = monitor.console()
    out.print(table)
    out.print(f"kept: {shares['weights']:.2%} of the weights, {shares['macs']:.2%} of the MACs")
    monitor.say(f"{exp.workdir}: results.json" + (f", {SPARSE}" if "tuned" in results else ""))

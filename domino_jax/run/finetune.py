"""What train.py does: scheme and dense weights in, fine-tuned sparse weights and accuracies out."""

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from domino_jax.core import costs
from domino_jax.core.errors import InputError
from domino_jax.core.finite import require_finite
from domino_jax.core.kernels import n_by_path
from domino_jax.core.masked import PATTERNS
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import Scheme
from domino_jax.data import stream
from domino_jax.run import checkpoint, checks, monitor, provenance, repairs, workdir
from domino_jax.run.dense import dense_network, dense_weights
from domino_jax.run.experiment import Experiment, evaluator, read_scheme, until_stopped, weights_of
from domino_jax.run.phases import planned_steps, resume, running, train_batches
from domino_jax.run.steps import Parts, train_parts
from domino_jax.train import evaluation, loop
from domino_jax.train import mesh as devices
from domino_jax.train.placement import place
from domino_jax.train.step import first_state
from domino_jax.train.trainer import keep_largest

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
    "perplexity": ("perplexity", ".2f"),
}


def train_scheme(exp: Experiment, *, anew: bool = False) -> None:
    """Trains the network under the scheme, and writes and prints the accuracies.

    Goes on from what the work directory holds, or forgets its training first if `anew`.

    Raises:
        InputError: the scheme is missing or belongs to another network, or the work directory was
            made with other settings.
    """
    scheme = _scheme(exp)
    data = exp.data.fingerprint
    provenance.require_train(exp.workdir, exp.config, scheme, data=data, anew=anew)
    n = _n_by_path(exp, scheme)
    parts = train_parts(exp)
    steps = 0 if parts.trainer.update is None else planned_steps(exp.phases["train"])
    if steps:
        checks.require_filled(exp.config, exp.data, "train")
    provenance.begin_train(exp.workdir, exp.config, scheme, data=data, anew=anew)
    dense = dense_network(exp)
    fresh = exp.model.params, exp.model.stats
    start = fresh if exp.config.train.start == "random" else dense
    sparse = _train(exp, parts, *start, n, steps=steps)
    _evaluate(exp, scheme, dense, sparse if steps else None)


def evaluate_only(exp: Experiment) -> None:
    """Evaluates the dense network and whatever the work directory holds, and prints it.

    Raises:
        InputError: the dense network is not trained, there is no scheme, or the work directory
            was made with other settings.
    """
    scheme = _scheme(exp)
    provenance.require_train(exp.workdir, exp.config, scheme, data=exp.data.fingerprint)
    _n_by_path(exp, scheme)
    dense = dense_weights(exp)
    provenance.begin_evaluation(exp.workdir, exp.config, scheme, data=exp.data.fingerprint)
    folder = exp.workdir / SPARSE
    sparse = None
    if checkpoint.latest(folder):  # step 0 was not trained: it is the masked network
        saved = checkpoint.restore_parts(folder, weights_of(exp.model))
        require_finite(folder, saved)
        sparse = place(exp.placement, (saved["params"], saved["stats"]))
    _evaluate(exp, scheme, dense, sparse)


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


def _n_by_path(exp: Experiment, scheme: Scheme) -> Any:
    try:
        return n_by_path(scheme, exp.layers)
    except ValueError as error:
        raise InputError(f"{_path(exp)}: {error}") from None


def _evaluate(
    exp: Experiment, scheme: Scheme, dense: tuple[Any, Any], tuned: tuple[Any, Any] | None
) -> None:
    """Evaluates and prints the dense, the masked and, where there is one, the trained network."""
    evaluate = evaluator(exp)
    params, stats = dense
    masked = _masked(exp, params, _n_by_path(exp, scheme))
    results = {"dense": evaluate(params, stats), "masked": evaluate(masked, stats)}
    if jax.tree.leaves(stats):
        results["recalibrated"] = evaluate(masked, _recalibrated(exp, masked, stats))
    if tuned:
        results["tuned"] = evaluate(*tuned)
    _write(exp, scheme, results)


def _masked(exp: Experiment, params: Any, n: Any) -> Any:
    return keep_largest(params, exp.layers, n, PATTERNS[exp.config.train.pattern])


def _recalibrated(exp: Experiment, params: Any, stats: Any) -> Any:
    """Returns the batch statistics of the masked weights, from training batches."""
    dataset = train_batches(exp.phases["train"])
    with (
        repairs.noting(exp.workdir, exp.data),
        closing(stream(dataset, workers=exp.data.workers)) as source,
    ):
        some = until_stopped(exp, itertools.islice(source, RECALIBRATION_BATCHES))
        batches = (devices.split_batch(exp.placement.mesh, batch) for batch in some)
        return evaluation.recalibrate(exp.model.apply, params, stats, batches)


def _train(
    exp: Experiment, parts: Parts, params: Any, stats: Any, n: Any, *, steps: int
) -> tuple[Any, Any]:
    """Trains, saves the sparse weights, and returns them with their statistics.

    Raises:
        InputError: the trainer leaves more than n of M, or what is not finite.
    """
    phase = exp.phases["train"]
    trainer, step = parts
    first = trainer.init(params, n)
    state = resume(phase, first_state(first.params, stats, first.state))
    if int(state.step) < steps:
        with running(
            phase,
            "fine-tuning",
            start=int(state.step),
            steps=steps,
            describe=lambda step, _: ("", {"learning_rate": float(phase.rate(step - 1))}),
        ) as (batches, hooks):
            state = loop.run_train(
                step, state, first.target, batches, phase.key, steps=steps, hooks=hooks
            )
    sparse = trainer.finish(state.params, state.opt_state, first.target)
    require_finite(f"trainer {exp.config.train.method!r}", sparse)
    _require_sparse(exp, sparse, n)
    folder = exp.workdir / SPARSE
    if checkpoint.latest(folder) != int(state.step):
        with workdir.writing(exp.workdir):
            checkpoint.save(folder, int(state.step), {"params": sparse, "stats": state.stats})
    return sparse, state.stats


def _require_sparse(exp: Experiment, params: Any, n: Any) -> None:
    """Refuses weights of which a group has more than n: a trainer of one's own may leave some."""
    largest = leaves_by_path(_masked(exp, params, n))
    for path, leaf in leaves_by_path(params).items():
        if path in n and not np.array_equal(leaf, largest[path]):
            raise InputError(
                f"trainer {exp.config.train.method!r}: expected at most n of M weights in each "
                f"group of {path} after its finish, got more"
            )


def _write(exp: Experiment, scheme: Scheme, results: dict[str, dict[str, float]]) -> None:
    shares = {
        name: costs.kept_share(exp.layers, cost, scheme)
        for name, cost in (("weights", costs.count_weights), ("macs", costs.count_macs))
    }
    with workdir.writing(exp.workdir):
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

"""What train.py does: scheme and dense weights in, fine-tuned sparse weights and accuracies out."""

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from domino_jax.core import costs
from domino_jax.core.errors import InputError
from domino_jax.core.finite import require_finite
from domino_jax.core.kernels import n_by_path
from domino_jax.core.masked import PATTERNS, apply_masks
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import Scheme
from domino_jax.data import stream
from domino_jax.run import checkpoint, checks, monitor, provenance, repairs, workdir
from domino_jax.run.dense import dense_network, dense_weights
from domino_jax.run.experiment import Experiment, evaluator, read_scheme, until_stopped, weights_of
from domino_jax.run.phases import planned_steps, resume, running, train_batches
from domino_jax.run.steps import teacher, train_parts, training_from
from domino_jax.train import evaluation, loop
from domino_jax.train import mesh as devices
from domino_jax.train.placement import place
from domino_jax.train.scored import masks_once
from domino_jax.train.step import TrainState, first_state
from domino_jax.train.trainer import Start, Trainer, keep_largest

# PyTorch-style running averages forget all but 0.9**100 of what they start from.
RECALIBRATION_BATCHES = 100
SPARSE = "train/sparse"  # final weights, zeros in place

LINES = {
    "dense": "dense",
    "masked": "masked without training, dense batch statistics",
    "recalibrated": "masked without training, recalibrated batch statistics",
    "soft": "before the last hardening",
    "updated": "updated without training, recalibrated batch statistics",
    "tuned": "fine-tuned",
}
COLUMNS = {  # of an evaluation: title and format
    "accuracy": ("accuracy", ".2%"),
    "top5": ("top-5", ".2%"),
    "loss": ("loss", ".4f"),
    "perplexity": ("perplexity", ".2f"),
}


class Trained(NamedTuple):
    """A trained network: (params, stats), with zeros in place; of a soft trainer also what it was.

    Attributes:
        sparse: n of every M.
        soft: before the masks were hardened; None where the trainer has hard masks all along.
    """

    sparse: tuple[Any, Any]
    soft: tuple[Any, Any] | None


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
    steps = 0 if exp.trainer.update is None else planned_steps(exp.phases["train"])
    if steps:
        checks.require_wide(exp.model.params)
        checks.require_filled(exp.config, exp.data, "train")
    provenance.begin_train(exp.workdir, exp.config, scheme, data=data, anew=anew)
    dense = dense_network(exp)
    fresh = exp.model.params, exp.model.stats
    start = fresh if exp.config.train.start == "random" else dense
    trained = _train(exp, start, n, dense=dense, steps=steps)
    _evaluate(exp, scheme, dense, trained, steps=steps)


def evaluate_only(exp: Experiment) -> None:
    """Evaluates the dense network and whatever the work directory holds, and prints it.

    Raises:
        InputError: the dense network is not trained, there is no scheme, the work directory was
            made with other settings, or a soft trainer has begun and not ended.
    """
    scheme = _scheme(exp)
    provenance.require_train(exp.workdir, exp.config, scheme, data=exp.data.fingerprint)
    n = _n_by_path(exp, scheme)
    _require_hardened(exp)
    dense = dense_weights(exp)
    provenance.begin_evaluation(exp.workdir, exp.config, scheme, data=exp.data.fingerprint)
    folder = exp.workdir / SPARSE
    trained, step = None, checkpoint.latest(folder)
    if step is not None:
        saved = checkpoint.restore_parts(folder, weights_of(exp.model))
        require_finite(folder, saved)
        sparse = place(exp.placement, (saved["params"], saved["stats"]))
        soft = None
        if step and exp.trainer.soft and checkpoint.latest(exp.phases["train"].folder) == step:
            first, state = _resumed(exp, exp.trainer, dense, n)
            soft = _softly(exp.trainer, state, first.target)
        trained = Trained(sparse, soft)
    _evaluate(exp, scheme, dense, trained, steps=step or 0)


def _require_hardened(exp: Experiment) -> None:
    """Refuses to evaluate what a soft trainer has not hardened yet: it is no n:m network."""
    phase = exp.phases["train"]
    made, steps = checkpoint.latest(phase.folder) or 0, planned_steps(phase)
    if exp.trainer.soft and 0 < made < steps:
        raise InputError(
            f"evaluate: {phase.folder} is at step {made} of {steps}, and train.method "
            f"{exp.config.train.method!r} makes its masks hard at the end: run train.py without "
            "evaluate first"
        )


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
    exp: Experiment,
    scheme: Scheme,
    dense: tuple[Any, Any],
    trained: Trained | None,
    *,
    steps: int,
) -> None:
    """Evaluates and prints the dense and the masked network, and the sparse one where it differs.

    Args:
        exp: the run.
        scheme: of the sparse network.
        dense: weights and batch statistics.
        trained: the same of the sparse network, None where there is none yet.
        steps: in which the sparse network was trained.
    """
    evaluate = evaluator(exp)
    params, stats = dense
    masked = _masked(exp, *dense, _n_by_path(exp, scheme))
    results = {"dense": evaluate(params, stats), "masked": evaluate(masked, stats)}
    if jax.tree.leaves(stats):
        results["recalibrated"] = evaluate(masked, _recalibrated(exp, masked, stats))
    if trained and trained.soft:
        results["soft"] = evaluate(*trained.soft)
    if trained and steps:
        results["tuned"] = evaluate(*trained.sparse)
    elif trained and exp.trainer.update is None and _differ(trained.sparse[0], masked):
        results["updated"] = evaluate(*trained.sparse)
    _write(exp, scheme, results)


def _masked(exp: Experiment, params: Any, stats: Any, n: Any) -> Any:
    return apply_masks(params, masks_once(training_from(exp, stats))(params, n))


def _differ(params: Any, others: Any) -> bool:
    others = leaves_by_path(others)
    return any(
        not np.array_equal(leaf, others[path]) for path, leaf in leaves_by_path(params).items()
    )


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


def _resumed(
    exp: Experiment, trainer: Trainer, start: tuple[Any, Any], n: Any
) -> tuple[Start, TrainState]:
    """Returns where the training starts, and its last saved state."""
    params, stats = start
    first = trainer.init(params, n)
    return first, resume(exp.phases["train"], first_state(first.params, stats, first.state))


def _softly(trainer: Trainer, state: TrainState, target: Any) -> tuple[Any, Any]:
    """Returns the network as the last step of the training saw it."""
    seen = jax.jit(lambda *state: trainer.forward(*state)[0])
    return seen(state.params, state.opt_state, target), state.stats


def _train(
    exp: Experiment, start: tuple[Any, Any], n: Any, *, dense: tuple[Any, Any], steps: int
) -> Trained:
    """Trains, saves the sparse weights, and returns them with their statistics.

    Those that a trainer changed without a step get statistics of their own.

    Raises:
        InputError: the trainer leaves more than n of M, or what is not finite.
    """
    phase = exp.phases["train"]
    params, stats = start
    trainer, step = train_parts(exp, training_from(exp, stats))
    first, state = _resumed(exp, trainer, start, n)
    if int(state.step) < steps:
        with_teacher = teacher(exp, *dense)
        with running(
            phase,
            "fine-tuning",
            start=int(state.step),
            steps=steps,
            describe=lambda step, _: ("", {"learning_rate": float(phase.rate(step - 1))}),
        ) as (batches, hooks):
            taught = map(with_teacher, batches)
            state = loop.run_train(
                step, state, first.target, taught, phase.key, steps=steps, hooks=hooks
            )
    sparse = trainer.finish(state.params, state.opt_state, first.target)
    require_finite(f"trainer {exp.config.train.method!r}", sparse)
    _require_sparse(exp, sparse, n)
    stats = state.stats
    is_updated = trainer.update is None and _differ(sparse, _masked(exp, params, stats, n))
    if (is_updated or (steps and exp.config.train.recalibrate)) and jax.tree.leaves(stats):
        stats = _recalibrated(exp, sparse, stats)
    folder = exp.workdir / SPARSE
    if checkpoint.latest(folder) != int(state.step):
        with workdir.writing(exp.workdir):
            checkpoint.save(folder, int(state.step), {"params": sparse, "stats": stats})
    soft = _softly(trainer, state, first.target) if trainer.soft and steps else None
    return Trained((sparse, stats), soft)


def _require_sparse(exp: Experiment, params: Any, n: Any) -> None:
    """Refuses weights of which a group has more than n: a trainer of one's own may leave some."""
    pattern = PATTERNS[exp.config.train.pattern]
    largest = leaves_by_path(keep_largest(params, exp.layers, n, pattern))
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
        if name == "tuned" and "recalibrated" in results and exp.config.train.recalibrate:
            line += ", recalibrated batch statistics"
        table.add_row(line, *(format(numbers[key], COLUMNS[key][1]) for key in columns))
    out = monitor.console()
    out.print(table)
    if "soft" in results:
        lost = {key: results["tuned"][key] - results["soft"][key] for key in columns}
        said = (f"{COLUMNS[key][0]} {lost[key]:+{COLUMNS[key][1]}}" for key in columns)
        out.print(f"the last hardening of the masks: {', '.join(said)}")
    out.print(f"kept: {shares['weights']:.2%} of the weights, {shares['macs']:.2%} of the MACs")
    monitor.say(
        f"{exp.workdir}: results.json"
        + (f", {SPARSE}" if {"tuned", "updated"} & results.keys() else "")
    )

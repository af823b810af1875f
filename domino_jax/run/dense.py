"""The dense network of a run: trained in the work directory, or read from where `init` says."""

from typing import Any

from domino_jax.core.errors import InputError
from domino_jax.pytorch.state_dict import is_torch_file
from domino_jax.run import checkpoint
from domino_jax.run.experiment import Experiment, torch_weights, weights_of
from domino_jax.run.phases import planned_steps, rate_of, resume, running
from domino_jax.run.steps import dense_parts
from domino_jax.train import loop


def train_dense(exp: Experiment) -> None:
    """Trains the dense network in the work directory, unless `init` names one or it is done."""
    phase = exp.phase("dense")
    steps, rate = planned_steps(phase), rate_of(phase)
    if exp.config.init or (checkpoint.latest(phase.folder) or 0) >= steps:
        return
    tx, step = dense_parts(exp)
    state = resume(phase, loop.init_state(exp.model.params, exp.model.stats, tx))
    with running(
        phase,
        "dense training",
        start=int(state.step),
        steps=steps,
        describe=lambda step, _: ("", {"learning_rate": float(rate(step - 1))}),
    ) as (batches, hooks):
        loop.run_train(step, state, None, batches, phase.key, steps=steps, hooks=hooks)


def require_trained(exp: Experiment) -> None:
    """Refuses a work directory whose dense network is needed and not trained to its end.

    Raises:
        InputError: how far it is.
    """
    steps, made = planned_steps(exp.phase("dense")), checkpoint.latest(exp.workdir / "dense") or 0
    if not exp.config.init and made < steps:
        raise InputError(
            f"{exp.workdir / 'dense'}: the dense network is not trained yet, step {made} of "
            f"{steps}: run search.py or train.py first"
        )


def dense_weights(exp: Experiment) -> tuple[Any, Any]:
    """Returns the dense network's params and stats: of `init`, or of the work directory.

    Raises:
        InputError: the checkpoint does not fit the network, or the training is not finished.
    """
    require_trained(exp)
    if is_torch_file(exp.config.init):
        return torch_weights(exp.config, exp.model, exp.layers)
    folder = exp.config.init or exp.workdir / "dense"
    found = checkpoint.restore_parts(folder, weights_of(exp.model))
    return found["params"], found["stats"]

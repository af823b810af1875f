"""The dense network of a run: trained in the work directory, or read from where `init` says."""

from typing import Any

from domino_jax.core.errors import InputError
from domino_jax.core.finite import require_finite
from domino_jax.pytorch import hugging_face
from domino_jax.pytorch.state_dict import is_torch_file
from domino_jax.run import checkpoint
from domino_jax.run.experiment import Experiment, torch_weights, weights_of
from domino_jax.run.phases import planned_steps, resume, running
from domino_jax.run.reorder import kept_of_every, reorder
from domino_jax.run.steps import dense_parts
from domino_jax.train import loop
from domino_jax.train.placement import place
from domino_jax.train.step import first_state


def dense_network(exp: Experiment) -> tuple[Any, Any]:
    """Returns the dense network's params and stats, on the devices; trains it first if need be.

    Raises:
        InputError: as `dense_weights`.
    """
    kept_of_every(exp)  # refuses a wrong N:M before the training
    phase = exp.phases["dense"]
    steps = planned_steps(phase)
    if exp.config.init or (checkpoint.latest(phase.folder) or 0) >= steps:
        return dense_weights(exp)
    trainer, step = dense_parts(exp)
    first = trainer.init(exp.model.params, None)
    state = resume(phase, first_state(first.params, exp.model.stats, first.state))
    with running(
        phase,
        "dense training",
        start=int(state.step),
        steps=steps,
        describe=lambda step, _: ("", {"learning_rate": float(phase.rate(step - 1))}),
    ) as (batches, hooks):
        state = loop.run_train(step, state, None, batches, phase.key, steps=steps, hooks=hooks)
    return reorder(exp, state.params, state.stats)


def require_trained(exp: Experiment) -> None:
    """Refuses a work directory whose dense network is needed and not trained to its end.

    Raises:
        InputError: how far it is.
    """
    steps, steps_done = (
        planned_steps(exp.phases["dense"]),
        checkpoint.latest(exp.workdir / "dense") or 0,
    )
    if not exp.config.init and steps_done < steps:
        raise InputError(
            f"{exp.workdir / 'dense'}: the dense network is not trained yet, step {steps_done} of "
            f"{steps}: run search.py or train.py first"
        )


def dense_weights(exp: Experiment) -> tuple[Any, Any]:
    """Reads the dense network's params and stats, of `init` or of the work directory.

    They come onto the devices, their channels in the order that `permute` asks for.

    Raises:
        InputError: the checkpoint does not fit the network, or the training is not finished.
    """
    require_trained(exp)
    return place(exp.placement, reorder(exp, *_read(exp)))


def _read(exp: Experiment) -> tuple[Any, Any]:
    if is_torch_file(exp.config.init):
        return torch_weights(exp.config, exp.model, exp.layers)
    if hugging_face.is_folder(exp.config.init):
        return exp.model.params, exp.model.stats
    folder = exp.config.init or exp.workdir / "dense"
    saved = checkpoint.restore_parts(folder, weights_of(exp.model))
    require_finite(folder, saved)
    return saved["params"], saved["stats"]

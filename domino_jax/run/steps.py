"""The trainer and the jitted step of each phase, as the config wants them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from domino_jax.core import compiling
from domino_jax.run.experiment import Experiment
from domino_jax.train import losses, optim
from domino_jax.train.criteria import find_criterion
from domino_jax.train.distill import distilled, teaching
from domino_jax.train.gradients import Gradient, accumulated
from domino_jax.train.losses import Batch, Loss
from domino_jax.train.placement import kept
from domino_jax.train.remat import recomputing
from domino_jax.train.step import Step, trainer_step
from domino_jax.train.trainer import Trainer, Training, dense_trainer, search_trainer
from domino_jax.train.trainers import make_trainer
from domino_jax.train.transforms import survivor_decay, survivors


class Parts(NamedTuple):
    """What a phase needs besides weights and batches."""

    trainer: Trainer
    step: Step


def dense_parts(exp: Experiment) -> Parts:
    """Makes those of dense training; its target is None."""
    settings, rate = exp.config.dense, exp.phases["dense"].rate
    tx = optim.dense_optimizer(settings.optimizer, rate, settings.momentum, settings.weight_decay)
    return _parts(exp, dense_trainer(tx), settings.label_smoothing)


def search_parts(exp: Experiment) -> Parts:
    """Makes those of the search; its target is {'n', 'pace'}."""
    settings = exp.config.search
    doubles = settings.penalty_doubles_at
    penalty = optim.doubling(settings.penalty, *doubles) if doubles else settings.penalty
    tx = optax.chain(
        survivors(),
        survivor_decay(exp.layers, penalty, settings.penalty_every),
        optax.sgd(settings.lr),
    )
    return _parts(exp, search_trainer(tx, exp.layers), 0.0)


def training_from(exp: Experiment, stats: Any) -> Training:
    """Returns what the trainer is made for where it starts from these batch statistics."""
    loss = loss_of(exp, train=False)
    return exp.training._replace(loss=lambda params, batch: loss(params, stats, batch))


def train_parts(exp: Experiment, training: Training) -> Parts:
    """Makes those of sparse training; its target starts from n by path."""
    settings, ignore = exp.config.train, exp.data.ignore_label

    def with_teacher(loss: Loss) -> Loss:
        if not settings.distill:
            return loss
        return distilled(loss, settings.distill, settings.temperature, ignore)

    trainer = make_trainer(settings.method, training)
    return _parts(exp, trainer, settings.label_smoothing, with_teacher)


def loss_of(exp: Experiment, *, train: bool) -> Callable[[Any, Any, Batch], jax.Array]:
    """Makes (params, stats, batch) -> mean loss, at these batch statistics or the batch's own."""
    criterion = find_criterion(exp.config.loss)
    of_outputs = losses.mean_loss(criterion, ignore_label=exp.data.ignore_label)
    apply = _apply_of(exp)

    def loss(params: Any, stats: Any, batch: Batch) -> jax.Array:
        key = jax.random.key(exp.config.seed)  # the same noise at every call
        outputs, _ = apply(params, stats, batch["inputs"], train=train, key=key)
        return of_outputs(outputs, batch)

    return loss


def _apply_of(exp: Experiment) -> losses.Apply:
    """Returns the forward pass, whose gradients keep as much as the settings say."""
    return recomputing(exp.model.apply) if exp.config.remat else exp.model.apply


def teacher(exp: Experiment, params: Any, stats: Any) -> Callable[[Batch], Batch]:
    """Makes what adds the outputs of the dense network to a batch of sparse training, if asked."""
    if not exp.config.train.distill:
        return lambda batch: batch
    return teaching(exp.model.apply, params, stats)


def _parts(
    exp: Experiment,
    trainer: Trainer,
    label_smoothing: float,
    changed: Callable[[Loss], Loss] = lambda loss: loss,
) -> Parts:
    config, ignore = exp.config, exp.data.ignore_label
    loss = changed(losses.mean_loss(find_criterion(config.loss), label_smoothing, ignore))
    apply = _apply_of(exp)

    def spread(gradient: Gradient) -> Gradient:
        if config.accumulate == 1:
            return gradient
        return accumulated(gradient, config.accumulate, losses.counting(ignore))

    step = trainer_step(
        apply,
        loss,
        trainer,
        keep=partial(kept, exp.placement),
        spread=spread,
        compiler_options=compiling.options(exp.data.example),
    )
    return Parts(trainer, step)

"""The optimizer and the jitted step of each phase, as the config wants them."""

from collections.abc import Callable
from typing import Any

import optax

from domino_jax.run.experiment import Experiment
from domino_jax.run.phases import rate_of
from domino_jax.train import loop, losses, mesh, optim
from domino_jax.train.masking import survivor_decay, survivors

Parts = tuple[optax.GradientTransformation, loop.Step]


def dense_parts(exp: Experiment) -> Parts:
    """Makes the optimizer and step of dense training; its control is None."""
    settings, rate = exp.config.dense, rate_of(exp.phase("dense"))
    tx = optim.dense_optimizer(settings.optimizer, rate, settings.momentum, settings.weight_decay)
    loss = losses.cross_entropy(settings.label_smoothing, exp.data.ignore_label)
    return tx, _placed(exp, loop.dense_step, loss, tx)


def search_parts(exp: Experiment) -> Parts:
    """Makes the optimizer and step of the search; its control is {'n', 'pace'}."""
    settings = exp.config.search
    doubles = settings.penalty_doubles_at
    penalty = optim.doubling(settings.penalty, *doubles) if doubles else settings.penalty
    tx = optax.chain(
        survivors(),
        survivor_decay(exp.layers, penalty, settings.penalty_every),
        optax.sgd(settings.lr),
    )
    loss = losses.cross_entropy(ignore_label=exp.data.ignore_label)
    return tx, _placed(exp, loop.search_step, loss, tx, exp.layers)


def train_parts(exp: Experiment) -> Parts:
    """Makes the optimizer and step of sparse training.

    Its control is n by leaf, or with the method 'fixed' the masks.
    """
    settings = exp.config.train
    tx = optim.sparse_optimizer(
        settings.method,
        settings.optimizer,
        rate_of(exp.phase("train")),
        settings.momentum,
        settings.weight_decay,
        sr_ste_decay=settings.sr_ste,
    )
    loss = losses.cross_entropy(settings.label_smoothing, exp.data.ignore_label)
    if settings.method == "fixed":
        return tx, _placed(exp, loop.fixed_step, loss, tx)
    return tx, _placed(exp, loop.sparse_step, loss, tx, exp.layers)


def _placed(exp: Experiment, make: Callable[..., loop.Step], *parts: Any) -> loop.Step:
    sharding = mesh.replicated(mesh.make_mesh())
    return make(exp.model.apply, *parts, sharding=sharding)

"""The ways of training a sparse network, by name.

One of your own is 'package.module:function', a function that takes a `Training` and returns a
`Trainer`; and an entry here makes it ours.
"""

from collections.abc import Mapping
from typing import Any

import optax

from domino_jax.core.errors import InputError
from domino_jax.core.factories import explained, find_factory
from domino_jax.core.masked import apply_masks
from domino_jax.train.optim import DECOUPLED, dense_optimizer
from domino_jax.train.scheduled import straight_trainer
from domino_jax.train.scored import masks_once, require_magnitude
from domino_jax.train.trainer import (
    Start,
    Trainer,
    Training,
    update_by,
)
from domino_jax.train.transforms import fixed_masks, sr_ste, sr_ste_adamw, sr_ste_adamw_decoupled

TRAINERS: Mapping[str, str] = {
    "sr_ste": "domino_jax.train.trainers:sr_ste_trainer",
    "straight_through": "domino_jax.train.trainers:straight_through_trainer",
    "step": "domino_jax.train.precondition:step_trainer",
    "decaying_mask": "domino_jax.train.decay:decaying_mask_trainer",
    "decaying_structure": "domino_jax.train.decay:decaying_structure_trainer",
    "maxq": "domino_jax.train.maxq:maxq_trainer",
    "fixed": "domino_jax.train.trainers:fixed_trainer",
    "none": "domino_jax.train.trainers:no_trainer",
    "update": "domino_jax.train.updating:update_trainer",
}


def make_trainer(name: str, training: Training) -> Trainer:
    """Makes the trainer of a name.

    Raises:
        InputError: the name is unknown, an option is missing, or what its function refuses, or it
            returns no `Trainer`;
            whatever one of your own raises, or a function of the trainer that it returns.
    """
    training = training._replace(options=_Options(training.options))
    trainer = find_factory(name, TRAINERS, what="trainer")(training)
    if not isinstance(trainer, Trainer):
        raise InputError(
            f"trainer {name!r}: expected a Trainer(init, forward, update, finish), got a "
            f"{type(trainer).__name__}"
        )
    return _explained(name, trainer) if ":" in name else trainer


class _Options(dict[str, Any]):
    """Settings of a training, one of which may be missing."""

    def __missing__(self, key: str) -> Any:
        raise InputError(
            f"options: expected {key!r} among them (docs/settings.md, train.{key}), got "
            f"{', '.join(sorted(self)) or 'none'}"
        )


def _explained(name: str, trainer: Trainer) -> Trainer:
    init, forward, finish = (
        explained(each, name, what="trainer")
        for each in (trainer.init, trainer.forward, trainer.finish)
    )
    update = trainer.update and explained(trainer.update, name, what="trainer")
    return trainer._replace(init=init, forward=forward, update=update, finish=finish)


def sr_ste_trainer(training: Training) -> Trainer:
    """Straight through, and weights outside the masks decay by `sr_ste`.

    With 'adamw' that term goes through Adam, with `DECOUPLED` it stands beside it.
    """
    require_magnitude(training)
    return straight_trainer(sr_ste_optimizer(training), training)


def sr_ste_optimizer(training: Training) -> optax.GradientTransformation:
    """Makes the optimizer that the options name, with the term of SR-STE."""
    options, rate = training.options, training.rate
    if options["optimizer"] == "adamw":
        return sr_ste_adamw(rate, options["sr_ste"], options["weight_decay"])
    if options["optimizer"] == DECOUPLED:
        return sr_ste_adamw_decoupled(rate, options["sr_ste"], options["weight_decay"])
    return optax.chain(sr_ste(options["sr_ste"]), plain_optimizer(training))


def straight_through_trainer(training: Training) -> Trainer:
    """SR-STE without its decay."""
    require_magnitude(training)
    return straight_trainer(plain_optimizer(training), training)


def fixed_trainer(training: Training) -> Trainer:
    """Takes the masks once, from the weights at the start or their scores; they are its target.

    The rest is zero from there on, and takes no part in gradients, decay and moments.
    """
    tx, masks_of = fixed_masks(plain_optimizer(training)), masks_once(training)

    def init(params: Any, n: Any) -> Start:
        masks = masks_of(params, n)
        params = apply_masks(params, masks)
        return Start(params, masks, tx.init(params))

    return Trainer(
        init=init,
        forward=lambda params, state, masks: (apply_masks(params, masks), masks),
        update=update_by(tx),
        finish=lambda params, state, masks: apply_masks(params, masks),
    )


def no_trainer(training: Training) -> Trainer:
    """Trains nothing: the n largest of the weights at the start, or of their scores, stay."""
    masks_of = masks_once(training)
    return Trainer(
        init=lambda params, n: Start(params, n, {}),
        forward=lambda params, state, n: (params, {}),
        update=None,
        finish=lambda params, state, n: apply_masks(params, masks_of(params, n)),
    )


def plain_optimizer(training: Training) -> optax.GradientTransformation:
    """Makes the optimizer that the options name, without a term of SR-STE.

    Raises:
        InputError: it is one for such a term.
    """
    options = training.options
    if options["optimizer"] == DECOUPLED:
        raise InputError(
            f"train.optimizer: expected 'sgd' or 'adamw' where train.method has no SR-STE term "
            f"to stand beside Adam, got {DECOUPLED!r}"
        )
    return dense_optimizer(
        options["optimizer"], training.rate, options["momentum"], options["weight_decay"]
    )

"""Trainers whose masks follow a schedule, or are made anew only every so many steps."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import MakeMasks, Masks, make_masks
from domino_jax.train.masking import through_masks
from domino_jax.train.ramps import Ramp, gradual_n, ramp_of
from domino_jax.train.scored import require_magnitude
from domino_jax.train.trainer import Start, Trainer, Training, keep_largest, through_trainer


class Scheduled(NamedTuple):
    """The state of such a trainer; a pytree.

    Attributes:
        count: steps made; int32, [].
        masks: path -> the masks that were made last; {} where every step makes its own.
        inner: the state of the optax transform.
    """

    count: jax.Array  # type: ignore[assignment]  # as in optax
    masks: Mapping[str, jax.Array]
    inner: Any


MasksOf = Callable[[Any, jax.Array, Any], Masks]  # of params, steps made and n
See = Callable[[Any, Masks, Scheduled, Any], Any]  # of params, masks, state and n


def scheduled_trainer(
    tx: optax.GradientTransformation,
    layers: Iterable[LayerSpec],
    *,
    masks_of: MasksOf,
    see: See = lambda params, masks, state, n: through_masks(params, masks),
    finish: Callable[[Any, Any], Any] | None = None,
    every: int = 1,
    also: int = 0,
    soft: bool = True,
) -> Trainer:
    """Makes a trainer of an optax transform and of a transform of the parameters.

    Args:
        tx: may take the extra argument `masks`.
        layers: of the network.
        masks_of: (params, steps made, n by path) -> masks; no gradient goes through it.
        see: (params, masks, state, n by path) -> what the loss sees; it is differentiated.
        finish: (params, n by path) -> n:m weights; None keeps the n largest of every M.
        every: steps from one making of the masks to the next.
        also: a step that makes them too: where a ramp ends, n:m is due.
        soft: as of `Trainer`.
    """
    layers, tx = tuple(layers), optax.with_extra_args_support(tx)

    def init(params: Any, n: Any) -> Start:
        count = jnp.zeros([], jnp.int32)
        masks = {} if every == 1 else jax.jit(masks_of)(params, count, n)
        return Start(params, n, Scheduled(count, dict(masks), tx.init(params)))

    def forward(params: Any, state: Scheduled, n: Any) -> tuple[Any, Masks]:
        held = jax.lax.stop_gradient(params)
        if every == 1:
            masks = masks_of(held, state.count, n)
        else:
            masks = jax.lax.cond(
                (state.count % every == 0) | (state.count == also),
                lambda: dict(masks_of(held, state.count, n)),
                lambda: dict(state.masks),
            )
        return see(params, masks, state, n), masks

    def update(
        grads: Any, params: Any, state: Scheduled, n: Any, masks: Masks
    ) -> tuple[Any, Scheduled]:
        del n
        updates, inner = tx.update(grads, state.inner, params, masks=masks)
        kept = {} if every == 1 else masks
        return optax.apply_updates(params, updates), Scheduled(state.count + 1, kept, inner)

    def harden(params: Any, state: Any, n: Any) -> Any:
        del state
        return keep_largest(params, layers, n) if finish is None else finish(params, n)

    return Trainer(init, forward, update, harden, soft)


def straight_trainer(tx: optax.GradientTransformation, training: Training) -> Trainer:
    """Trains straight through top-n masks, under the options 'ramp' and 'mask_every'."""
    ramp = ramp_of(training.options, training.steps)
    every = training.options.get("mask_every", 1)
    if ramp is None and every == 1:
        return through_trainer(tx, training.layers, training.make_masks)
    return scheduled_trainer(
        tx,
        training.layers,
        masks_of=gradual_masks(training.layers, ramp, training.make_masks),
        finish=lambda params, n: keep_largest(params, training.layers, n, training.make_masks),
        every=every,
        also=ramp.end if ramp else 0,
        soft=ramp is not None,
    )


def gradual_masks(
    layers: tuple[LayerSpec, ...], ramp: Ramp | None, make_masks: MakeMasks = make_masks
) -> MasksOf:
    """Makes top-n masks of an n that falls along a ramp; None: n is what it is in the end."""

    def masks_of(params: Any, count: jax.Array, n: Any) -> Masks:
        now = n if ramp is None else gradual_n(layers, n, ramp.left(count))
        return make_masks(params, layers, now)

    return masks_of


def require_groups(training: Training) -> None:
    """Refuses another pattern than N:M, and masks by another score than magnitude.

    Raises:
        InputError: the setting.
    """
    require_magnitude(training)
    if training.make_masks is not make_masks:
        raise InputError("train.pattern: expected 'n:m' for this train.method, got another")

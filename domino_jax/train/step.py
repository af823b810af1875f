"""The train state, and one jitted step of any trainer.

Batches are {'inputs', 'labels'}; the random key of step i is fold_in(key, i).
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from domino_jax.core.layers import LayerSpec
from domino_jax.train.gradients import Gradient, whole_gradient
from domino_jax.train.losses import Apply, Batch, Loss
from domino_jax.train.trainer import Trainer, dense_trainer, search_trainer

Step = Callable[["TrainState", Any, Batch, jax.Array], tuple["TrainState", jax.Array]]


class TrainState(NamedTuple):
    """What a step changes; a pytree.

    Attributes:
        step: steps made; int32, [].
        params: float32 master weights.
        stats: batch statistics, {} if there are none.
        opt_state: the state of the trainer: mostly of its optax transform.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any


def init_state(params: Any, stats: Any, tx: optax.GradientTransformation) -> TrainState:
    """Makes the state before the first step of dense training or of a search."""
    return first_state(params, stats, tx.init(params))


def first_state(params: Any, stats: Any, opt_state: Any) -> TrainState:
    """Makes the state before the first step of any trainer, of what its `init` gives."""
    return TrainState(jnp.zeros([], jnp.int32), params, stats, opt_state)


def trainer_step(
    apply: Apply,
    loss: Loss,
    trainer: Trainer,
    *,
    keep: Callable[[Any], Any] = lambda tree: tree,
    spread: Callable[[Gradient], Gradient] = lambda gradient: gradient,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """Makes the jitted step of a trainer: step(state, target, batch, key).

    It donates its state; `keep` says where the new state and the loss lie on several devices, as
    `placement.kept` does; `spread` may take the gradient in parts, as `gradients.accumulated`
    does; `compiler_options` are those of `jax.jit`. Masks are made once a step. The target is
    traced: one compilation serves any n, pace and masks.
    """
    update, gradient = trainer.update or _leave, spread(whole_gradient(apply, loss))

    def step(
        state: TrainState, target: Any, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        seen, back, masks = jax.vjp(
            lambda params: trainer.forward(params, state.opt_state, target),
            state.params,
            has_aux=True,
        )
        step_key = jax.random.fold_in(key, state.step)
        value, stats, grads_seen = gradient(seen, state.stats, batch, step_key)
        (grads,) = back(grads_seen)
        params, opt_state = update(grads, state.params, state.opt_state, target, masks)
        answer: tuple[TrainState, jax.Array] = keep(
            (TrainState(state.step + 1, params, stats, opt_state), value)
        )
        return answer

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)


def _leave(grads: Any, params: Any, state: Any, target: Any, masks: Any) -> tuple[Any, Any]:
    """Is the update of a trainer that has none."""
    del grads, target, masks
    return params, state


def dense_step(
    apply: Apply,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    keep: Callable[[Any], Any] = lambda tree: tree,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """Makes the jitted step of dense training: step(state, None, batch, key)."""
    trainer = dense_trainer(tx)
    return trainer_step(apply, loss, trainer, keep=keep, compiler_options=compiler_options)


def search_step(
    apply: Apply,
    loss: Loss,
    tx: optax.GradientTransformation,
    layers: Iterable[LayerSpec],
    *,
    keep: Callable[[Any], Any] = lambda tree: tree,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """Makes the jitted step of a search: step(state, {'n', 'pace'}, batch, key)."""
    trainer = search_trainer(tx, layers)
    return trainer_step(apply, loss, trainer, keep=keep, compiler_options=compiler_options)

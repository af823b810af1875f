"""STEP: Adam learns its second moments densely, then they are frozen and the masks are trained.

Source: Lu et al. 2023, "STEP: Learning N:M structured sparsity masks from scratch with
precondition", Algorithms 1 and 2 (AutoSwitch, option I). With v the second moments, d weights in
the masked kernels, T steps in all:

    Z_t      |v_t - v_(t-1)|, the mean over the d weights
    switch   once the mean of Z over the last 1 / (1 - beta2) steps is below Adam's epsilon, not
             before `earliest` * T and after `latest` * T at the latest (the paper: 0.1 and 0.5)
    before   Adam as ever: m^ / (sqrt(v^) + epsilon), at the dense weights
    after    m^ / sqrt(v* + epsilon), v* the v^ of the switch, at the masked weights, straight
             through

v^ and v* are corrected for the zeros that v starts from: a switch changes no step's size. What is
no masked kernel (biases, norms, embeddings) keeps its own moments, as in the code for the paper.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from domino_jax.core.errors import InputError
from domino_jax.core.masked import Masks
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.train.masking import through_masks
from domino_jax.train.ramps import ramp_of
from domino_jax.train.scheduled import Scheduled, gradual_masks, require_groups, scheduled_trainer
from domino_jax.train.trainer import Trainer, Training

B1, B2, EPS = 0.9, 0.999, 1e-8  # Adam's, and the paper's


class StepState(NamedTuple):
    """State of `scale_by_step`.

    Attributes:
        count: steps made; int32, [].
        mu: first moments, like the params.
        nu: second moments, like the params; those of masked kernels are v* once it is frozen.
        changes: Z of the last steps in a ring; float, [1 / (1 - beta2)].
        frozen: whether it has switched; bool, [].
    """

    count: jax.Array  # type: ignore[assignment]  # as in optax
    mu: Any
    nu: Any
    changes: jax.Array
    frozen: jax.Array


def scale_by_step(
    earliest: int, latest: int, *, b1: float = B1, b2: float = B2, eps: float = EPS
) -> optax.GradientTransformationExtraArgs:
    """Scales by Adam, and from its switch on by the second moments of the masked kernels there.

    Extra argument of `update`: `masks`, whose paths say which kernels are masked.

    Args:
        earliest: steps before the switch at the least.
        latest: steps before the switch at the most.
        b1: decay of the first moments.
        b2: decay of the second moments.
        eps: Adam's epsilon, and what the mean change must fall below.

    Raises:
        InputError: the first is above the second.
    """
    if not 0 <= earliest <= latest:
        raise InputError(
            "train.switch: expected the earliest switch before the latest, got steps "
            f"{earliest} and {latest}"
        )
    window = max(round(1 / (1 - b2)), 1)

    def init(params: Any) -> StepState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        changes = jnp.zeros([window], float)
        return StepState(jnp.zeros([], jnp.int32), mu, nu, changes, jnp.asarray(False))

    def update(
        updates: Any, state: StepState, params: Any = None, *, masks: Masks, **_: Any
    ) -> tuple[Any, StepState]:
        del params
        made = state.count + 1
        grads, nus = leaves_by_path(updates), leaves_by_path(state.nu)
        moved = {path: (1 - b2) * (jnp.square(g) - nus[path]) for path, g in grads.items()}
        changes = jnp.where(
            state.frozen,
            state.changes,
            state.changes.at[state.count % window].set(_mean_size(moved, masks)),
        )
        mean = jnp.sum(changes) / jnp.asarray(jnp.minimum(made, window), float)
        switches = (made >= latest) | ((mean < eps) & (made >= earliest))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        new, scaled = {}, {}
        for path, m in leaves_by_path(mu).items():
            corrected_m = m / _correction(b1, made, m.dtype)
            nu = nus[path] + moved[path]
            correct = _correction(b2, made, m.dtype)
            scaled[path] = corrected_m / (jnp.sqrt(nu / correct) + eps)
            if path in masks:
                frozen_step = corrected_m / jnp.sqrt(nus[path] + eps)
                scaled[path] = jnp.where(state.frozen, frozen_step, scaled[path])
                nu = jnp.where(state.frozen, nus[path], jnp.where(switches, nu / correct, nu))
            new[path] = nu
        return replace_leaves(updates, scaled), StepState(
            made, mu, replace_leaves(state.nu, new), changes, state.frozen | switches
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _mean_size(moved: dict[str, jax.Array], masks: Masks) -> jax.Array:
    """Returns the mean magnitude of the changes of the masked kernels: float, []."""
    total = jnp.zeros([], float)
    for path in masks:
        total += jnp.asarray(jnp.sum(jnp.abs(moved[path])), float)
    return total / max(sum(moved[path].size for path in masks), 1)


def _correction(decay: float, made: jax.Array, dtype: Any) -> jax.Array:
    return jnp.asarray(1 - decay ** jnp.asarray(made, float), dtype)


def step_adamw(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, earliest: int, latest: int
) -> optax.GradientTransformationExtraArgs:
    """AdamW with the frozen second moments of STEP; its first state is a `StepState`."""
    return optax.chain(
        scale_by_step(earliest, latest),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def step_trainer(training: Training) -> Trainer:
    """Trains densely until the second moments hardly change, then straight through masks.

    Raises:
        InputError: the optimizer is no Adam.
    """
    require_groups(training)
    options, steps = training.options, training.steps
    if options["optimizer"] != "adamw":
        raise InputError(
            "train.optimizer: expected 'adamw' where train.method is 'step', which freezes Adam's "
            f"second moments, got {options['optimizer']!r}"
        )
    earliest, latest = (round(share * steps) for share in options["switch"])

    def see(params: Any, masks: Masks, state: Scheduled, n: Any) -> Any:
        del n
        dense = ~state.inner[0].frozen
        return through_masks(params, {path: mask | dense for path, mask in masks.items()})

    ramp = ramp_of(options, steps)
    return scheduled_trainer(
        step_adamw(training.rate, options["weight_decay"], earliest, max(latest, 1)),
        training.layers,
        masks_of=gradual_masks(training.layers, ramp),
        see=see,
        every=options.get("mask_every", 1),
        also=ramp.end if ramp else 0,
    )

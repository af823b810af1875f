"""Optax transforms that know the masks of a step.

They take the masks (and the pace) as extra arguments of `update`, so that one compiled step serves
a whole search. How they combine (docs/formulas.md has the formulas):

    search      chain(survivors(), survivor_decay(penalty, 5), sgd(lr)), gradient at hard masks
    SR-STE      chain(sr_ste(5e-4), add_decayed_weights(5e-5), sgd(lr, momentum))
    fixed       fixed_masks(chain(add_decayed_weights(5e-5), sgd(lr, momentum)))
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from domino_jax.core import canonical
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import Masks, apply_masks, where_kept
from domino_jax.core.paths import leaves_by_path, replace_leaves


def survivors() -> optax.GradientTransformationExtraArgs:
    """Drops the update of every weight outside the masks (extra argument `masks`)."""

    def update(updates: Any, state: Any, params: Any = None, *, masks: Masks, **_: Any) -> Any:
        del params
        return apply_masks(updates, masks), state

    return optax.GradientTransformationExtraArgs(_empty, update)


class SurvivorDecayState(NamedTuple):
    """How many steps were made: int32, []."""

    count: jax.Array  # type: ignore[assignment]  # as in optax


def survivor_decay(
    layers: Iterable[LayerSpec], penalty: optax.ScalarOrSchedule, every: int = 5
) -> optax.GradientTransformationExtraArgs:
    """Adds penalty * pace * w for the survivors of each layer on every `every`-th step, from 0.

    A layer with a negative pace grows. Source: the paper's layer-wise penalty.
    Extra arguments of `update`: `masks`, and `pace`, path -> factor, [] or [S].

    Raises:
        InputError: `every` is below 1.
    """
    if every < 1:
        raise InputError(f"survivor_decay: every must be 1 or more, got {every}")
    axes = {path: kernel.axes for path, kernel in kernels(layers).items()}
    schedule = penalty if callable(penalty) else optax.constant_schedule(penalty)

    def init(params: Any) -> SurvivorDecayState:
        del params
        return SurvivorDecayState(jnp.zeros([], jnp.int32))

    def update(
        updates: Any,
        state: SurvivorDecayState,
        params: Any = None,
        *,
        masks: Masks,
        pace: Mapping[str, jax.Array],
        **_: Any,
    ) -> tuple[Any, SurvivorDecayState]:
        strength = jnp.where(
            state.count % every == 0, jnp.asarray(schedule(state.count), float), 0.0
        )

        def decay(path: str, w: jax.Array, mask: jax.Array) -> jax.Array:
            factor = strength.astype(w.dtype) * pace[path].astype(w.dtype)
            return where_kept(mask, canonical.spread(factor, w.shape, axes[path]) * w)

        return _add(updates, params, masks, decay), SurvivorDecayState(state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def sr_ste(decay: float) -> optax.GradientTransformationExtraArgs:
    """Adds decay * w for the weights outside the masks (extra argument `masks`).

    The gradient that it takes is the one at the masked weights, for all weights (straight through).
    Source: SR-STE (Zhou et al., ICLR 2021), Eq. 9.
    """

    def update(updates: Any, state: Any, params: Any = None, *, masks: Masks, **_: Any) -> Any:
        def shrink(path: str, w: jax.Array, mask: jax.Array) -> jax.Array:
            del path
            return where_kept(~mask, jnp.asarray(decay, w.dtype) * w)

        return _add(updates, params, masks, shrink), state

    return optax.GradientTransformationExtraArgs(_empty, update)


def sr_ste_adamw(
    learning_rate: optax.ScalarOrSchedule, decay: float, weight_decay: float, **adam: float
) -> optax.GradientTransformationExtraArgs:
    """AdamW with the SR-STE term in the gradient, so that Adam's moments see and rescale it."""
    return optax.chain(sr_ste(decay), optax.adamw(learning_rate, weight_decay=weight_decay, **adam))


def sr_ste_adamw_decoupled(
    learning_rate: optax.ScalarOrSchedule, decay: float, weight_decay: float, **adam: float
) -> optax.GradientTransformationExtraArgs:
    """AdamW with the SR-STE term beside the weight decay, untouched by Adam's moments."""
    return optax.chain(
        optax.scale_by_adam(**adam),
        sr_ste(decay),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def fixed_masks(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that weights outside fixed masks take no part in it.

    The gradient, the weights that a decay sees, the moments and the update are all masked
    (extra argument `masks`): a weight outside stays as it is, at zero if it started there.
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, *, masks: Masks, **extra: Any) -> Any:
        if params is not None:
            params = apply_masks(params, masks)
        updates, state = inner.update(apply_masks(updates, masks), state, params, **extra)
        return apply_masks(updates, masks), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _empty(params: Any) -> optax.EmptyState:
    del params
    return optax.EmptyState()


def _add(
    updates: Any,
    params: Any,
    masks: Masks,
    term: Callable[[str, jax.Array, jax.Array], jax.Array],
) -> Any:
    """Adds term(path, weight, mask) to the update of every masked kernel."""
    if params is None:
        raise InputError("this transform needs the params: call update(updates, state, params)")
    old, weights = leaves_by_path(updates), leaves_by_path(params)
    new = {path: old[path] + term(path, weights[path], mask) for path, mask in masks.items()}
    return replace_leaves(updates, new)

"""Decaying mask and decaying structure: what is pruned goes little by little.

Source: Kao et al. 2022, "Training recipe for N:M structured sparsity with decaying pruning mask".
"""

from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core.masked import Masks, make_masks
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.train.ramps import halved_n, ramp_of
from domino_jax.train.scheduled import Scheduled, require_groups, scheduled_trainer
from domino_jax.train.trainer import Trainer, Training
from domino_jax.train.trainers import plain_optimizer


def decay_masked(params: Any, masks: Masks, left: jax.typing.ArrayLike) -> Any:
    """Returns w * (mask + (1 - mask) * left): of the weights outside the masks a share is left.

    The gradient is that of this formula: to weights outside the masks the same share of it flows,
    and none once nothing is left (the code of the authors' later paper lets all of it through).

    Args:
        params: parameter pytree.
        masks: path -> bool, as `make_masks` gives them.
        left: from 1 to 0, [].
    """
    weights = leaves_by_path(params)
    share = jnp.asarray(left)
    return replace_leaves(
        params,
        {
            path: jnp.where(mask, weights[path], share.astype(weights[path].dtype) * weights[path])
            for path, mask in masks.items()
        },
    )


def decaying_mask_trainer(training: Training) -> Trainer:
    """Weights outside the top-n masks count less and less: `decay_masked`, along a ramp."""
    ramp = _ramp(training)

    def see(params: Any, masks: Masks, state: Scheduled, n: Any) -> Any:
        del n
        return decay_masked(params, masks, ramp.left(state.count))

    return scheduled_trainer(
        plain_optimizer(training),
        training.layers,
        masks_of=lambda params, count, n: make_masks(params, training.layers, n),
        see=see,
        every=training.options.get("mask_every", 1),
    )


def decaying_structure_trainer(training: Training) -> Trainer:
    """Straight through, with n falling from M - 1 by halves to each layer's own: `halved_n`."""
    ramp, layers = _ramp(training), training.layers

    def masks_of(params: Any, count: jax.Array, n: Any) -> Masks:
        return make_masks(params, layers, halved_n(layers, n, ramp.left(count)))

    return scheduled_trainer(
        plain_optimizer(training),
        layers,
        masks_of=masks_of,
        every=training.options.get("mask_every", 1),
        also=ramp.end,
    )


def _ramp(training: Training) -> Any:
    require_groups(training)
    return ramp_of(training.options, training.steps, default="linear")

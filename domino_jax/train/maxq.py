"""A soft mask by importance along several axes, on a share of groups that rises to all.

Source: Xiang et al., "MaxQ: Multi-Axis Query for N:M Sparsity Network", CVPR 2024, as the authors'
code has it. With |w| the magnitudes of a layer and r = 1 - `left`, which rises from 0 to 1:

    pruned   the N:M mask in all but int(left * G) of the G groups, those of the least sum |w|,
             which stay whole
    filter   sigmoid((|w| - t) / tau) for the N/M largest of each filter, 0 for the others; t lies
             halfway between the least of these and the largest of the others; tau = 0.01
    kernel   the same for the weights at each window position, where there are several
    mask     pruned * (1 + r * (filter + kernel))

The loss sees mask * w, its gradient goes to w as it is, and weights with a mask of 0 decay as by
SR-STE. In the end (r = 1) this is the authors' formula. The factor r is ours: we start from a
trained dense network, which their factors of up to 3 would change at once.

Letters: S stack slices, W window positions, G groups along the inputs, O outputs.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core import canonical
from domino_jax.core import masks as _masks
from domino_jax.core.canonical import Axes
from domino_jax.core.kernels import kernel_weights, kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import Levels, Masks, where_kept
from domino_jax.core.order import two_smallest_from
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.train.masking import through_values
from domino_jax.train.ramps import ramp_of
from domino_jax.train.scheduled import Scheduled, require_groups, scheduled_trainer
from domino_jax.train.trainer import Trainer, Training
from domino_jax.train.trainers import sr_ste_optimizer

TAU = 0.01  # of the sigmoid


def rising_masks(
    params: Any, layers: Iterable[LayerSpec], n: Levels, left: jax.Array
) -> dict[str, jax.Array]:
    """Returns the N:M mask of every kernel, of which a share of the groups is left whole.

    Args:
        params: parameter pytree.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, [] or [S].
        left: the share of groups that stay whole, those of the least sum of magnitudes, [].
    """
    layers = tuple(layers)
    return {
        path: _rising_mask(w, n[path], left, *_plan(layers, path))
        for path, w in kernel_weights(params, layers).items()
    }


@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _rising_mask(w: jax.Array, n: Any, left: jax.Array, m: int, axes: Axes) -> jax.Array:
    sums = _masks.group_sums(w, m, axes)
    whole = jnp.floor(left * math.prod(sums.shape[1:])).astype(jnp.int32)
    largest_whole, _ = two_smallest_from(sums, whole, (1, 2, 3))
    return _masks.top_n_where(w, n, (sums > largest_whole) | (whole == 0), m, axes)


def _plan(layers: tuple[LayerSpec, ...], path: str) -> tuple[int, Axes]:
    """Returns the group size of a kernel and the parts of its axes, which `jit` caches by."""
    kernel = kernels(layers)[path]
    return kernel.m, kernel.axes


def axis_factors(
    params: Any, layers: Iterable[LayerSpec], n: Levels, rise: jax.typing.ArrayLike = 1.0
) -> dict[str, jax.Array]:
    """Returns 1 + rise * (filter + kernel) of every weight: its importance along other axes.

    Args:
        params: parameter pytree.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, [] or [S]; factors are 1 where it is M.
        rise: from 0 to 1, [].
    """
    layers = tuple(layers)
    return {
        path: _factor(w, n[path], jnp.asarray(rise, w.dtype), *_plan(layers, path))
        for path, w in kernel_weights(params, layers).items()
    }


@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _factor(w: jax.Array, n: Any, rise: jax.Array, m: int, axes: Axes) -> jax.Array:
    magnitude = jnp.abs(w)
    kept = canonical.spread(jnp.asarray(n, jnp.int32), w.shape, axes)

    def important(among: tuple[int, ...]) -> jax.Array:
        size = math.prod(w.shape[axis] for axis in among)
        # (M - N) / M of the size, rounded down; the product of all three may exceed int32.
        others = (size // m) * (m - kept) + (size % m) * (m - kept) // m
        low, high = two_smallest_from(magnitude, others, among)
        threshold = (low + high) / 2
        return where_kept(magnitude >= high, jax.nn.sigmoid((magnitude - threshold) / TAU))

    importance = important(axes.window + axes.inputs)
    if math.prod(w.shape[axis] for axis in axes.window) > 1:
        importance += important(axes.inputs + axes.outputs)
    return jnp.where(kept < m, 1 + rise * importance, jnp.ones_like(w))


def maxq_trainer(training: Training) -> Trainer:
    """Trains straight through soft masks; what they weigh is folded into the weights at the end."""
    require_groups(training)
    layers = training.layers
    ramp: Any = ramp_of(training.options, training.steps, default="linear")

    def values(params: Any, masks: Masks, n: Any, rise: jax.typing.ArrayLike) -> Any:
        weights, factors = leaves_by_path(params), axis_factors(params, layers, n, rise)
        return {
            path: where_kept(mask, weights[path] * factors[path]) for path, mask in masks.items()
        }

    def see(params: Any, masks: Masks, state: Scheduled, n: Any) -> Any:
        held = jax.lax.stop_gradient(params)
        return through_values(params, values(held, masks, n, 1 - ramp.left(state.count)))

    @jax.jit
    def finish(params: Any, n: Any) -> Any:
        masks = rising_masks(params, layers, n, jnp.zeros([], float))
        return replace_leaves(params, values(params, masks, n, 1.0))

    return scheduled_trainer(
        sr_ste_optimizer(training),
        layers,
        masks_of=lambda params, count, n: rising_masks(params, layers, n, ramp.left(count)),
        see=see,
        finish=finish,
        every=training.options.get("mask_every", 1),
        also=ramp.end,
    )

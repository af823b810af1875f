"""How sparsity rises: a curve over a share of the training, and the n of each layer on the way.

left   1 ────╲                 the share of what is to be pruned that is still there
              ╲___ cubic       'linear' falls evenly, 'cubic' fast at first
       0           ─────────
         begin     end    last step
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import Levels
from domino_jax.core.paths import require_known

POWERS: Mapping[str, int] = {"linear": 1, "cubic": 3}


@dataclass(frozen=True)
class Ramp:
    """When sparsity rises, in steps.

    Attributes:
        power: of the curve.
        begin: the last step at which all is left.
        end: the first step at which nothing is.
        last: the last step of the training; its value stays, so that what the network is after
            the training is what this step saw.
    """

    power: int
    begin: int
    end: int
    last: int

    def left(self, count: jax.Array) -> jax.Array:
        """Returns the share that is left at a step (int32, []): float, [].

        Source: (1 - (t - t0) / (t1 - t0)) ** 3 for 'cubic' (Zhu and Gupta 2017, Eq. 1, GMP).
        """
        made = jnp.asarray(jnp.minimum(count, self.last) - self.begin, float)
        return (1 - jnp.clip(made / (self.end - self.begin), 0, 1)) ** self.power


def make_ramp(curve: str, begin: float, end: float, steps: int) -> Ramp:
    """Makes a ramp from shares of a training.

    Raises:
        InputError: the curve is unknown, or the ramp ends before it begins or after the training.
    """
    require_known([curve], list(POWERS), what="curve of train.ramp")
    if not 0 <= begin < end <= 1:
        raise InputError(
            "train.ramp_from, train.ramp_until: expected shares of the training, 0 <= from < until "
            f"<= 1, got {begin:g} and {end:g}"
        )
    first = min(round(begin * steps), steps - 1)
    return Ramp(POWERS[curve], first, max(round(end * steps), first + 1), steps - 1)


def ramp_of(options: Mapping[str, Any], steps: int, *, default: str = "") -> Ramp | None:
    """Makes the ramp that the options of a training name; None where they name none.

    Args:
        options: 'ramp' ('' is the default), 'ramp_from' and 'ramp_until'.
        steps: of the training.
        default: the curve of a trainer that needs one.
    """
    curve = options.get("ramp", "") or default
    if not curve:
        return None
    return make_ramp(curve, options["ramp_from"], options["ramp_until"], steps)


def gradual_n(
    layers: Iterable[LayerSpec], n: Levels, left: jax.typing.ArrayLike
) -> dict[str, jax.Array]:
    """Returns n + (M - n) * left of each kernel, rounded up: M where all is left, n in the end.

    Args:
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M in the end, [] or [S].
        left: the share of what is to be pruned that is still there, [].
    """
    levels, left = {}, jnp.asarray(left, jnp.float32)
    for path, kernel in kernels(layers).items():
        last = jnp.asarray(n[path], jnp.int32)
        # Rounded down to a thousandth first: of 3.0000002 the float's error is no weight.
        more = jnp.ceil(jnp.asarray(kernel.m - last, left.dtype) * left - 1e-3)
        levels[path] = last + more.astype(jnp.int32)
    return levels


def halved_n(
    layers: Iterable[LayerSpec], n: Levels, left: jax.typing.ArrayLike
) -> dict[str, jax.Array]:
    """Returns M - 1, M / 2, M / 4, … and in the end n of each kernel, in steps of equal length.

    A layer has as many steps as it needs halvings: 1:16 goes by 15, 8, 4, 2, 4:16 by 15, 8.
    Source: sparse structure decay (Kao et al. 2022), with N:M from where nothing is left.

    Args:
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M in the end, [] or [S].
        left: as for `gradual_n`.
    """
    levels, left = {}, jnp.asarray(left, jnp.float32)
    for path, kernel in kernels(layers).items():
        last, m = jnp.asarray(n[path], jnp.int32), kernel.m
        halvings = jnp.zeros_like(last)
        for i in range(math.ceil(math.log2(m))):
            halvings += (last * 2**i < m).astype(jnp.int32)
        # A thousandth more: a step that is due must not wait for the float's error.
        due = jnp.floor((1 - left) * jnp.asarray(halvings, left.dtype) + 1e-3).astype(jnp.int32)
        at = jnp.where(due == 0, m - 1, jnp.right_shift(jnp.int32(m), due))
        levels[path] = jnp.where(due < halvings, jnp.maximum(at, last), last)
    return levels

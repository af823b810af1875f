"""The true loss of the network that a scheme makes of the dense weights."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.scores import Scores
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM

LossOn = Callable[[Mapping[str, NM], Sequence[Any]], float]


def joint_loss(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
) -> Callable[[Mapping[str, NM]], float]:
    """Makes scheme -> true mean loss over the batches of the masked dense weights.

    The masks go by the scores of `make_scores`, if there are any.

    Raises:
        InputError: there is no batch; of the function: the loss is not one finite number.
    """
    of_scheme, batches = joint_loss_on(layers, params, loss, scores=scores), list(batches)
    if not batches:
        raise InputError("expected at least one calibration batch, got none")
    return lambda scheme: of_scheme(scheme, batches)


def joint_loss_on(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
) -> LossOn:
    """Makes (scheme, batches) -> loss as `joint_loss`, compiled once for all of both."""
    layers = tuple(layers)

    @jax.jit
    def masked_loss(params: Any, n: Any, batch: Any, scores: Scores) -> jax.Array:
        return loss(hard_mask(params, layers, n, scores=scores), batch)

    def of_scheme(scheme: Mapping[str, NM], batches: Sequence[Any]) -> float:
        n = n_by_path(scheme, layers)
        # One after another: of batches under way at once each would take memory of its own.
        values = [_number(masked_loss(params, n, batch, scores)) for batch in batches]
        mean = math.fsum(values) / len(values)
        if not math.isfinite(mean):
            pruned = [f"{name} at {nm}" for name, nm in scheme.items() if nm.n < nm.m]
            what = ", ".join(pruned[:3]) or "the dense network"
            raise InputError(f"calibration: expected a finite loss with {what}, got {mean}")
        return mean

    return of_scheme


def _number(loss: jax.Array) -> float:
    if jnp.shape(loss) != ():
        raise InputError(
            f"expected a loss that is one number, got one of the shape {jnp.shape(loss)}"
        )
    return float(loss)

"""The gradient of a step: of its whole batch at once, or of parts of it one after another.

Letters: B examples, A parts of a batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.train.losses import Apply, Batch, Loss

# (params, stats, batch, key) -> loss, batch statistics, gradient.
Gradient = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Any, Any]]
Count = Callable[[Batch], jax.Array]  # labels of a batch that count


def whole_gradient(apply: Apply, loss: Loss) -> Gradient:
    """Makes the gradient of the mean loss of a batch, by the weights that the network sees."""

    def gradient(params: Any, stats: Any, batch: Batch, key: jax.Array) -> tuple:
        def objective(params: Any) -> tuple[jax.Array, Any]:
            outputs, new = apply(params, stats, batch["inputs"], train=True, key=key)
            return loss(outputs, batch), new

        (value, new), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return value, new, grads

    return gradient


def accumulated(gradient: Gradient, parts: int, count: Count) -> Gradient:
    """Makes the same gradient of parts of a batch, in a scan: the memory is that of one part.

    Each part weighs what its labels count, so the sum is the gradient of the whole batch. Two
    things differ, since a part knows nothing of the others: a batch norm normalizes by the
    statistics of the part, and its running statistics move once a part, in order; and what is drawn
    (dropout) has a key of its own for each part.

    Args:
        gradient: of the mean loss of a batch.
        parts: A, which divides B; where devices share a batch, also the examples of each.
        count: the labels of a batch that its mean loss is over.
    """

    def in_turn(params: Any, stats: Any, batch: Batch, key: jax.Array) -> tuple:
        pieces = jax.tree.map(lambda x: _dealt(x, parts), batch)
        counts = jax.vmap(count)(pieces).astype(jnp.float32)
        shares = counts / jnp.maximum(jnp.sum(counts), 1)

        def add(held: tuple[Any, Any], piece: tuple) -> tuple[tuple[Any, Any], jax.Array]:
            stats, sums = held
            number, share, part = piece
            value, stats, grads = gradient(params, stats, part, jax.random.fold_in(key, number))
            sums = jax.tree.map(lambda total, g: total + share.astype(g.dtype) * g, sums, grads)
            return (stats, sums), share.astype(value.dtype) * value

        start = stats, jax.tree.map(jnp.zeros_like, params)
        numbers = jnp.arange(parts, dtype=jnp.int32)
        (stats, sums), values = jax.lax.scan(add, start, (numbers, shares, pieces))
        return jnp.sum(values), stats, sums

    return in_turn


def _dealt(x: jax.Array, parts: int) -> jax.Array:
    """Deals examples out: [B, ...] to [A, B / A, ...], example i to part i modulo A.

    Devices that have a row of examples each keep them: every one has its share of every part.
    """
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

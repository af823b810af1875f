"""Losses and counts: `loss(outputs, batch) -> scalar`, as the loops take them.

Letters: B examples, ... positions of an example (none for images, tokens for text), C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from domino_jax.core.errors import InputError

Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, Batch], jax.Array]
Apply = Callable[..., tuple[Any, Any]]  # of a `Model`


def cross_entropy(label_smoothing: float = 0.0, ignore_label: int | None = None) -> Loss:
    """Makes the mean softmax cross-entropy of outputs [B, ..., C] and labels [B, ...].

    Args:
        label_smoothing: share of the target that all classes have in common.
        ignore_label: what has this label does not count: the mean is over the others, and 0 where
            there are none.

    Raises:
        InputError: the smoothing is outside [0, 1); of the loss: labels of another shape.
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing!r}")

    def loss(outputs: jax.Array, batch: Batch) -> jax.Array:
        _require_labels(outputs, batch["labels"])
        labels, counts = counted(batch["labels"], ignore_label)
        if label_smoothing == 0:
            each = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        else:
            targets = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
            each = optax.softmax_cross_entropy(
                outputs, optax.smooth_labels(targets, label_smoothing)
            )
        return mean_where(each, counts)

    return loss


def mean_where(each: jax.Array, counts: jax.Array | None) -> jax.Array:
    """Returns the mean over what counts, 0 where nothing does; None: all does."""
    if counts is None:
        return each.mean()
    number = jnp.maximum(jnp.sum(counts), 1).astype(each.dtype)
    return jnp.sum(jnp.where(counts, each, 0)) / number


def counted(labels: jax.Array, ignore_label: int | None) -> tuple[jax.Array, jax.Array | None]:
    """Returns labels of classes alone, and which of them count; None: all do."""
    if ignore_label is None:
        return labels, None
    whole = jnp.iinfo(labels.dtype)
    if not whole.min <= ignore_label <= whole.max:  # no label of this type can be it
        return labels, None
    counts = labels != ignore_label
    # Class 0 stands in: an index out of range would make NaN, also of a gradient times zero.
    return jnp.where(counts, labels, 0), counts


def totals(
    outputs: jax.Array, batch: Batch, ignore_label: int | None = None
) -> dict[str, jax.Array]:
    """Sums correct predictions, cross-entropy and weight of an evaluation batch.

    Args:
        outputs: [B, ..., C].
        batch: labels [B, ...] and weight [B], 0 for rows that only fill the batch.
        ignore_label: what has this label weighs 0 too.

    Returns:
        'correct', 'loss' and 'weight', float32 sums over rows and positions; of more than ten
        classes also 'top5', where the label is among the five largest outputs. Of equal outputs the
        lower class is the larger one, as for the argmax; an example with NaN is never correct.

    Raises:
        InputError: labels of another shape.
    """
    _require_labels(outputs, batch["labels"])
    labels, counts = counted(batch["labels"], ignore_label)
    extra = tuple(range(1, labels.ndim))
    weight = jnp.broadcast_to(jnp.expand_dims(batch["weight"], extra), labels.shape)
    if counts is not None:
        weight = jnp.where(counts, weight, 0)
    each = optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), labels)
    hits = _among_largest(outputs, labels, 1)
    sums = {
        "correct": jnp.sum(weight * hits),
        "loss": jnp.sum(weight * each),
        "weight": jnp.sum(weight),
    }
    if outputs.shape[-1] > 10:
        sums["top5"] = jnp.sum(weight * _among_largest(outputs, labels, 5))
    return sums


def _require_labels(outputs: jax.Array, labels: jax.Array) -> None:
    """Refuses one-hot labels and the like, which broadcasting could make a wrong loss of."""
    if labels.shape != outputs.shape[:-1]:
        one_hot = "; one-hot labels: use argmax" if labels.shape == outputs.shape else ""
        raise InputError(
            f"'labels' of the data's batches are {labels.dtype}{list(labels.shape)}, outputs "
            f"{list(outputs.shape)} need labels {list(outputs.shape[:-1])}{one_hot}"
        )


def _among_largest(outputs: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """Returns 1 where the label is among the `count` largest outputs, else 0; float32 [B, ...].

    Counts what beats it: far less work than sorting. NaN beats everything.
    """
    own = jnp.take_along_axis(outputs, labels[..., None], axis=-1)
    classes = jax.lax.broadcasted_iota(labels.dtype, outputs.shape, outputs.ndim - 1)
    ties = (outputs == own) & (classes < labels[..., None])
    beaten_by = jnp.sum(~(outputs <= own) | ties, axis=-1)
    return (beaten_by < count).astype(jnp.float32)

"""A criterion over a batch: `loss(outputs, batch) -> scalar`, as the loops take it, and its sums.

Letters: B examples, ... positions of an example (none for images, tokens for text), C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core.errors import InputError
from domino_jax.train.criteria import LOSSES, Criterion

Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, Batch], jax.Array]
Apply = Callable[..., tuple[Any, Any]]  # of a `Model`
SOFTMAX = LOSSES["softmax_cross_entropy"]


def cross_entropy(label_smoothing: float = 0.0, ignore_label: int | None = None) -> Loss:
    """Makes the mean softmax cross-entropy of outputs [B, ..., C] and labels [B, ...].

    Arguments and errors are those of `mean_loss`.
    """
    return mean_loss(SOFTMAX, label_smoothing, ignore_label)


def mean_loss(
    criterion: Criterion, label_smoothing: float = 0.0, ignore_label: int | None = None
) -> Loss:
    """Makes the mean loss of outputs [B, ..., C] and labels.

    Args:
        criterion: what a label costs.
        label_smoothing: share of the target that all classes have in common.
        ignore_label: what has this label does not count: the mean is over the others, and 0 where
            there are none.

    Raises:
        InputError: the smoothing is outside [0, 1), or the criterion has none; of the loss: labels
            of another shape.
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing!r}")
    if label_smoothing and not criterion.smooths:
        raise InputError(f"label_smoothing: expected 0 of this loss, got {label_smoothing!r}")

    def loss(outputs: jax.Array, batch: Batch) -> jax.Array:
        labels, counts = counted(batch["labels"], ignore_label)
        each = criterion.each(outputs, labels, label_smoothing)
        if counts is not None:
            _require_each(counts, each)
        return mean_where(each, counts)

    return loss


def mean_where(each: jax.Array, counts: jax.Array | None) -> jax.Array:
    """Returns the mean over what counts, 0 where nothing does; None: all does."""
    if counts is None:
        return each.mean()
    number = jnp.maximum(jnp.sum(counts), 1).astype(each.dtype)
    return jnp.sum(jnp.where(counts, each, 0)) / number


def totals(
    outputs: jax.Array,
    batch: Batch,
    ignore_label: int | None = None,
    criterion: Criterion = SOFTMAX,
) -> dict[str, jax.Array]:
    """Sums the loss, what is reported beside it, and the weight of an evaluation batch.

    Args:
        outputs: [B, ..., C].
        batch: labels [B, ...] and weight [B], 0 for rows that only fill the batch.
        ignore_label: what has this label weighs 0 too.
        criterion: what a label costs, and what is reported.

    Returns:
        'loss', 'weight' and what the criterion reports ('accuracy'), float32 sums over all labels.

    Raises:
        InputError: labels of another shape.
    """
    labels, counts = counted(batch["labels"], ignore_label)
    each = criterion.each(outputs.astype(jnp.float32), labels, 0.0)
    extra = tuple(range(1, each.ndim))
    weight = jnp.broadcast_to(jnp.expand_dims(batch["weight"], extra), each.shape)
    if counts is not None:
        _require_each(counts, each)
        weight = jnp.where(counts, weight, 0)
    sums = {"loss": jnp.sum(weight * each)}
    for name, values in criterion.reported(outputs, labels).items():
        sums[name] = jnp.sum(weight * values)
    return sums | {"weight": jnp.sum(weight)}


def counted(labels: jax.Array, ignore_label: int | None) -> tuple[jax.Array, jax.Array | None]:
    """Returns labels that count alone, and which of them do; None: all do."""
    if ignore_label is None:
        return labels, None
    if jnp.issubdtype(labels.dtype, jnp.integer):
        whole = jnp.iinfo(labels.dtype)
        if not whole.min <= ignore_label <= whole.max:  # no label of this type can be it
            return labels, None
    counts = labels != ignore_label
    # Class 0 stands in: an index out of range would make NaN, also of a gradient times zero.
    return jnp.where(counts, labels, 0), counts


def counting(ignore_label: int | None = None) -> Callable[[Batch], jax.Array]:
    """Makes batch -> how many labels a mean loss of it is over: int32, []."""

    def count(batch: Batch) -> jax.Array:
        labels, counts = counted(batch["labels"], ignore_label)
        return jnp.int32(labels.size) if counts is None else jnp.sum(counts, dtype=jnp.int32)

    return count


def _require_each(counts: jax.Array, each: jax.Array) -> None:
    """Refuses a loss of one's own that is not of each label, where some labels do not count."""
    if counts.shape != each.shape:
        raise InputError(
            f"loss: expected one for each label, {list(counts.shape)}, where the data have an "
            f"ignore_label, got {list(each.shape)}"
        )

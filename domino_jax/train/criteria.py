"""The losses by name: what each label costs, what is reported beside it, and which labels it takes.

One of your own is 'package.module:function', a function (outputs, labels) -> the loss of each
example [B], or of each of its positions or outputs [B, ...]; and an entry here makes it ours.
Letters: B examples, ... positions of an example (none for images, tokens for text), C outputs.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from domino_jax.core.errors import InputError
from domino_jax.core.factories import find_factory

Labels = Mapping[str, jax.Array]  # numbers by name, one for each label


class Criterion(NamedTuple):
    """What a network is trained for.

    Attributes:
        each: (outputs [B, ..., C], labels, smoothing) -> the loss of each label; the mean over all
            that count is what a step minimizes.
        reported: (outputs, labels) -> name -> a number for each label; means of them are reported
            beside the loss.
        allows: (labels, classes of the data) -> which labels may be; NumPy.
        expected: (classes) -> the words for them.
        smooths: whether it takes a smoothing above 0.
        derived: (means over a test set, 'loss' among them) -> further numbers of it.
    """

    each: Callable[[jax.Array, jax.Array, float], jax.Array]
    reported: Callable[[jax.Array, jax.Array], Labels]
    allows: Callable[[np.ndarray, int], np.ndarray]
    expected: Callable[[int], str]
    smooths: bool
    derived: Callable[[Mapping[str, float]], dict[str, float]] = lambda means: {}


def _softmax(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Takes labels [B, ...] of classes."""
    _require_labels(outputs, labels, outputs.shape[:-1])
    if smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    targets = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return optax.softmax_cross_entropy(outputs, optax.smooth_labels(targets, smoothing))


def _hits(outputs: jax.Array, labels: jax.Array) -> Labels:
    """Says whether the label is the largest output, and of more than ten among the five largest.

    Of equal outputs the lower class is the larger one, as for the argmax; NaN is never correct.
    """
    hits = {"accuracy": _among_largest(outputs, labels, 1)}
    if outputs.shape[-1] > 10:
        hits["top5"] = _among_largest(outputs, labels, 5)
    return hits


def _first(outputs: jax.Array, labels: jax.Array) -> Labels:
    return {"accuracy": _among_largest(outputs, labels, 1)}


def _perplexity(means: Mapping[str, float]) -> dict[str, float]:
    """Returns the number of equally likely tokens among which one would be as unsure."""
    return {"perplexity": math.exp(min(means["loss"], 700.0))}  # finite, as JSON asks


def _among_largest(outputs: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """Returns 1 where the label is among the `count` largest outputs, else 0; float32 [B, ...].

    Counts what beats it: far less work than sorting. NaN beats everything.
    """
    own = jnp.take_along_axis(outputs, labels[..., None], axis=-1)
    classes = jax.lax.broadcasted_iota(labels.dtype, outputs.shape, outputs.ndim - 1)
    ties = (outputs == own) & (classes < labels[..., None])
    beaten_by = jnp.sum(~(outputs <= own) | ties, axis=-1)
    return (beaten_by < count).astype(jnp.float32)


def _sigmoid(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Takes labels [B, ..., C] of 0 and 1: each class is or is not there; smoothed towards 1/2."""
    _require_labels(outputs, labels, outputs.shape)
    targets = (1 - smoothing) * labels.astype(outputs.dtype) + smoothing / 2
    return optax.sigmoid_binary_cross_entropy(outputs, targets)


def _same_side(outputs: jax.Array, labels: jax.Array) -> Labels:
    """Says for each class whether the network takes it to be there as the label does."""
    right = jnp.where(labels > 0, outputs > 0, outputs <= 0)  # NaN is neither
    return {"accuracy": right.astype(jnp.float32)}


def _squared(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Takes labels [B, ..., C] of any numbers; its mean is the mean squared error."""
    del smoothing
    _require_labels(outputs, labels, outputs.shape)
    return jnp.square(outputs - labels.astype(outputs.dtype))


def _nothing(outputs: jax.Array, labels: jax.Array) -> Labels:
    del outputs, labels
    return {}


_CLASSES = Criterion(
    _softmax,
    _hits,
    lambda labels, classes: (
        (labels >= 0) & (labels < classes) & np.issubdtype(labels.dtype, np.integer)
    ),
    lambda classes: f"labels from 0 to {classes - 1}",
    smooths=True,
)
LOSSES: Mapping[str, Criterion] = {
    "softmax_cross_entropy": _CLASSES,
    "next_token": _CLASSES._replace(reported=_first, derived=_perplexity),
    "sigmoid_cross_entropy": Criterion(
        _sigmoid,
        _same_side,
        lambda labels, classes: (labels == 0) | (labels == 1),
        lambda classes: f"labels of 0 and 1 for each of the {classes} outputs",
        smooths=True,
    ),
    "squared_error": Criterion(
        _squared,
        _nothing,
        lambda labels, classes: np.isfinite(labels),
        lambda classes: "finite numbers as labels",
        smooths=False,
    ),
}


def find_criterion(name: str) -> Criterion:
    """Returns the criterion of a loss.

    Raises:
        InputError: the name is unknown or cannot be imported; of its `each`: whatever a function of
            one's own raises, or if it gives no loss for each example.
    """
    if name in LOSSES:
        return LOSSES[name]
    function = find_factory(name, dict.fromkeys(LOSSES, ""), what="loss")

    def each(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
        del smoothing
        losses: jax.Array = function(outputs, labels)
        shape = getattr(losses, "shape", None)
        if not shape or shape[0] != outputs.shape[0]:
            raise InputError(
                f"loss {name!r}: expected the loss of each of {outputs.shape[0]} examples, "
                f"[{outputs.shape[0]}, ...], got {f'the shape {shape}' if shape == () else losses}"
            )
        return losses

    return Criterion(
        each,
        _nothing,
        lambda labels, classes: np.ones(labels.shape, bool),
        lambda classes: "labels",
        smooths=False,
    )


def _require_labels(outputs: jax.Array, labels: jax.Array, shape: tuple[int, ...]) -> None:
    """Refuses labels of another shape, which broadcasting could make a wrong loss of."""
    if labels.shape != shape:
        one_hot = "; one-hot labels: use argmax" if labels.shape == outputs.shape else ""
        raise InputError(
            f"'labels' of the data's batches are {labels.dtype}{list(labels.shape)}, outputs "
            f"{list(outputs.shape)} need labels {list(shape)}{one_hot}"
        )

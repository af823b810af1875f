"""Distillation: the outputs of a dense network (the teacher) are a target beside the labels.

Letters: B examples, ... positions of an example (none for images, tokens for text), C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from domino_jax.core.errors import InputError
from domino_jax.train.losses import Apply, Batch, Loss, counted, mean_where

TEACHER = "teacher"  # of a batch: what the teacher makes of its inputs


def distilled(
    loss: Loss, weight: float, temperature: float, ignore_label: int | None = None
) -> Loss:
    """Makes (1 - weight) loss + weight T² KL(softmax(teacher / T), softmax(outputs / T)).

    Source: Hinton et al. 2015, section 2; the teacher's own entropy, which does not depend on the
    weights, is left out. T² keeps the gradient's size whatever the temperature T.

    Args:
        loss: of outputs [B, ..., C] and a batch with labels [B, ...].
        weight: from 0 to 1; 1 leaves the labels out.
        temperature: above 0.
        ignore_label: what has this label does not count.

    Returns:
        A loss whose batches have 'teacher' too, [B, ..., C], as `teaching` adds it.

    Raises:
        InputError: a weight outside [0, 1] or a temperature that is not above 0; of the loss: a
            teacher whose outputs have another shape.
    """
    if not (0 <= weight <= 1 and temperature > 0):
        raise InputError(
            "train.distill, train.temperature: expected a weight from 0 to 1 and a temperature "
            f"above 0, got {weight!r} and {temperature!r}"
        )

    def combined(outputs: jax.Array, batch: Batch) -> jax.Array:
        teacher = batch[TEACHER]
        if teacher.shape != outputs.shape:
            raise InputError(
                f"train.distill: expected a teacher with outputs {list(outputs.shape)}, like those "
                f"of the network, got {list(teacher.shape)}"
            )
        ours, theirs = (
            jax.nn.log_softmax(logits.astype(outputs.dtype) / temperature)
            for logits in (outputs, teacher)
        )
        each = optax.losses.kl_divergence_with_log_targets(ours, theirs)
        _, counts = counted(batch["labels"], ignore_label)
        kept: jax.Array = (1 - weight) * loss(outputs, batch)
        return kept + weight * temperature**2 * mean_where(each, counts)

    return combined


def teaching(apply: Apply, params: Any, stats: Any) -> Callable[[Batch], Batch]:
    """Makes batch -> the batch with the outputs of a network in evaluation mode as 'teacher'.

    Args:
        apply: of a `Model`.
        params: of the teacher.
        stats: of the teacher.
    """

    @jax.jit
    def outputs_of(params: Any, stats: Any, inputs: Any) -> jax.Array:
        # Evaluation mode draws nothing.
        outputs, _ = apply(params, stats, inputs, train=False, key=jax.random.key(0))
        return outputs

    return lambda batch: {**batch, TEACHER: outputs_of(params, stats, batch["inputs"])}

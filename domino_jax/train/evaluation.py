"""Evaluation: loss and accuracy over a test set, and batch statistics measured anew."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import jax

from domino_jax.core.errors import InputError
from domino_jax.train.criteria import Criterion
from domino_jax.train.losses import SOFTMAX, Apply, Batch, totals


def eval_step(
    apply: Apply, ignore_label: int | None = None, criterion: Criterion = SOFTMAX
) -> Callable[[Any, Any, Batch], dict[str, jax.Array]]:
    """Makes the jitted evaluation of one batch: its sums (see `totals`).

    Args:
        apply: of a `Model`.
        ignore_label: what has this label does not count.
        criterion: what a label costs, and what is reported.
    """

    @jax.jit
    def step(params: Any, stats: Any, batch: Batch) -> dict[str, jax.Array]:
        key = jax.random.key(0)  # evaluation draws nothing
        outputs, _ = apply(params, stats, batch["inputs"], train=False, key=key)
        return totals(outputs, batch, ignore_label, criterion)

    return step


def evaluate(
    step: Callable[[Any, Any, Batch], dict[str, jax.Array]],
    params: Any,
    stats: Any,
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Returns the mean loss and what the criterion reports: accuracy, and of many classes top5.

    Over all examples, each counted once.

    Raises:
        InputError: no label counts.
    """
    sums: Counter[str] = Counter()
    for batch in batches:
        sums.update({k: float(v) for k, v in jax.device_get(step(params, stats, batch)).items()})
    if not sums["weight"]:
        raise InputError("no label of the test set counts: all of them are ignored")
    means = {name: value / sums["weight"] for name, value in sums.items() if name != "weight"}
    return {"loss": means.pop("loss"), **means}


def recalibrate(apply: Apply, params: Any, stats: Any, batches: Iterable[Batch]) -> Any:
    """Returns the batch statistics after forward passes in training mode; weights stay."""

    @jax.jit
    def forward(params: Any, stats: Any, batch: Batch) -> Any:
        return apply(params, stats, batch["inputs"], train=True, key=jax.random.key(0))[1]

    for batch in batches:
        stats = forward(params, stats, batch)
    return stats

"""Which weights stay where that is settled once, at the start: by any score of `SCORES`."""

from collections.abc import Callable
from typing import Any

import jax

from domino_jax.allocate.scores import make_scores
from domino_jax.core.errors import InputError
from domino_jax.core.masked import Masks, make_masks
from domino_jax.train.trainer import Training

MAGNITUDE = "magnitude"


def masks_once(training: Training) -> Callable[[Any, Any], Masks]:
    """Makes (dense params, n) -> masks, by the option 'score'; without one by magnitude.

    Raises:
        InputError: a score with a pattern that goes by magnitude, or too many batches for it; of
            the function: as `make_scores`.
    """
    layers, score = training.layers, training.options.get("score") or MAGNITUDE
    if score == MAGNITUDE:
        return lambda params, n: jax.jit(lambda p: training.make_masks(p, layers, n))(params)
    if training.make_masks is not make_masks:
        raise InputError(
            f"train.score: expected None or {MAGNITUDE!r} with a train.pattern other than 'n:m', "
            f"got {score!r}"
        )
    training.batches()

    def by_score(params: Any, n: Any) -> Masks:
        scores = make_scores(score, layers, params, training.loss, training.batches())
        return make_masks(params, layers, n, scores=scores)

    return by_score


def require_magnitude(training: Training) -> None:
    """Refuses a score where every step makes its masks anew, and only the weights change.

    Raises:
        InputError: which one.
    """
    score = training.options.get("score") or MAGNITUDE
    if score != MAGNITUDE:
        raise InputError(
            f"train.score: expected None or {MAGNITUDE!r} with a train.method that makes its masks "
            f"anew at every step ('fixed', 'none' and 'update' make them once), got {score!r}"
        )

"""The problem that a run puts to an allocator: layers, budget, and on demand all the rest."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import jax

from domino_jax.allocate.problem import Batch, Problem, Weights
from domino_jax.run import checks
from domino_jax.run.dense import dense_network
from domino_jax.run.experiment import Experiment
from domino_jax.run.phases import train_batches
from domino_jax.train import losses
from domino_jax.train.mesh import split_batch


def problem_of(exp: Experiment, begin: Callable[[], None]) -> Problem:
    """Makes the problem of a run.

    Args:
        exp: the run.
        begin: called before the dense network is trained or read, for the first time only.
    """

    @cache
    def weights() -> Weights:
        begin()
        return Weights(*dense_network(exp))

    def batches(first: int, count: int) -> Iterator[Batch]:
        checks.require_filled(exp.config, exp.data, "search")
        dataset = train_batches(exp.phases["search"])
        for number in range(first, first + count):
            yield split_batch(exp.mesh, dataset[number])

    return Problem(
        layers=exp.layers,
        budget=exp.budget,
        options=options_of(exp),
        weights=weights,
        loss=_loss(exp, train=False),
        training_loss=_loss(exp, train=True),
        batches=batches,
        should_stop=exp.should_stop,
    )


def options_of(exp: Experiment) -> Mapping[str, Any]:
    """Returns what an allocator may read of the settings of the search."""
    return dict(exp.config.search.items())


def _loss(exp: Experiment, *, train: bool) -> Callable[[Any, Any, Batch], jax.Array]:
    of_outputs = losses.cross_entropy(ignore_label=exp.data.ignore_label)

    def loss(params: Any, stats: Any, batch: Batch) -> jax.Array:
        key = jax.random.key(exp.config.seed)  # the same noise at every call
        outputs, _ = exp.model.apply(params, stats, batch["inputs"], train=train, key=key)
        return of_outputs(outputs, batch)

    return loss

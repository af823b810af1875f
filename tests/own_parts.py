"""Allocators, paces and trainers of someone else, 'own_parts:name'; and what can be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from domino_jax.allocate.domino import domino
from domino_jax.core import costs
from domino_jax.core.masked import apply_masks, make_masks
from domino_jax.core.scheme import NM
from domino_jax.data.arrays import from_targets
from domino_jax.train.trainer import Start, Trainer, keep_largest, update_by


# An allocator of someone else, in ten lines: what has the largest loss alone is kept dense.
def by_loss(problem):
    params, stats = problem.weights()
    (batch,) = problem.batches(0, 1)

    def loss_without(layer):
        group, _, leaf = layer.path.partition("/")
        zeros = {leaf: jnp.zeros_like(params[group][leaf])}
        return float(problem.loss({**params, group: zeros}, stats, batch))

    needed = max(problem.layers, key=loss_without)
    return {each.name: NM(4 if each == needed else 1, 4) for each in problem.layers}


def patient(problem):
    """Is a search of someone else: ours with another pace."""
    pace = lambda n: dict.fromkeys(n, 2.0)  # noqa: E731
    return domino(problem.layers, problem.budget, pace=pace)


def content(problem):
    """Is a search that is done at once, whatever its budget."""
    search = domino(problem.layers, problem.budget, pace=lambda n: dict.fromkeys(n, 1.0))
    return search._replace(init=lambda params: search.init(params)._replace(done=jnp.array(True)))


def halves(problem):
    return {layer.name: NM(2, 4) for layer in problem.layers}


def of_one_layer(problem):
    return {"a": NM(1, 4)}


def nothing(problem):
    return None


def slowly(layers, budget, *, cost, macs_weight, erk_weight):
    """Is the pace of someone else."""
    assert (cost, macs_weight, erk_weight) == (costs.count_macs, 0.5, 0.5)
    return lambda committed: dict.fromkeys(committed, budget / len(layers))


def growing(layers, budget, **options):
    return lambda committed: dict.fromkeys(committed, -0.1)


def broken(layers, budget, **options):
    return None


# A trainer of someone else: the loss sees half of what the masks remove.
def softly(training):
    tx = optax.sgd(training.rate)

    def forward(params, state, n):
        masks = make_masks(jax.lax.stop_gradient(params), training.layers, n)
        hard = apply_masks(params, masks)
        return jax.tree.map(lambda all, kept: (all + kept) / 2, params, hard), masks

    return Trainer(
        init=lambda params, n: Start(params, n, tx.init(params)),
        forward=forward,
        update=update_by(tx),
        finish=lambda params, state, n: keep_largest(params, training.layers, n),
    )


def unfinished(training):
    return softly(training)._replace(finish=lambda params, state, n: params)


def absolute(outputs, labels):
    """Is the loss of someone else: of each output."""
    return jnp.abs(outputs - labels)


def of_the_batch(outputs, labels):
    return jnp.abs(outputs - labels).mean()


def with_a_bug(outputs, labels):
    return outputs.nothing


def _classes():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 320)
    inputs = rng.normal(size=(3, 4, 4, 4))[classes] + rng.normal(size=(320, 4, 4, 4))
    return inputs.astype(np.float32), np.eye(3)[classes]


def present(*, data_dir, workers):
    """Says for each of three classes whether it is there."""
    inputs, targets = _classes()
    targets = targets.astype(int)
    return from_targets((inputs[:240], targets[:240]), (inputs[240:], targets[240:]))


def numbers(*, data_dir, workers):
    """Has three numbers for each example: 3, and 0 twice."""
    inputs, targets = _classes()
    return from_targets((inputs[:240], 3 * targets[:240]), (inputs[240:], 3 * targets[240:]))


def negative_scores(layers, params, loss, batches):
    """Scores of which some are below 0."""
    del layers, loss, batches
    return dict(params)

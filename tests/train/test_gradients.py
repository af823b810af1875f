"""A batch in parts gives the step of the whole batch, and takes less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest

from domino_jax.core.canonical import Axes
from domino_jax.core.layers import LayerSpec
from domino_jax.train import losses
from domino_jax.train.gradients import accumulated, whole_gradient
from domino_jax.train.mesh import make_mesh, split_batch
from domino_jax.train.placement import Placement, kept, place
from domino_jax.train.step import first_state, trainer_step
from domino_jax.train.trainer import search_trainer, through_trainer
from domino_jax.train.transforms import sr_ste, survivor_decay, survivors

IO = Axes((), (), (0,), (1,))
LAYERS: tuple[LayerSpec, ...] = tuple(
    made.layer(name, shape, IO, 1, (1, 2, 4)) for name, shape in (("a", (8, 16)), ("b", (16, 4)))
)
N = {"a": np.int32(1), "b": np.int32(2)}
PACE = {name: np.float32(0.5) for name in N}
RNG = np.random.default_rng(0)
PARAMS = {layer.name: np.float32(RNG.normal(size=layer.shape)) for layer in LAYERS}
# The first half has one label that counts, the second half all.
BATCH = {
    "inputs": np.float32(RNG.normal(size=(16, 8))),
    "labels": np.array([1] + [-1] * 7 + [0, 1, 2, 3] * 2, np.int32),
}


def apply(params, stats, inputs, *, train, key):
    return jax.nn.relu(inputs @ params["a"]) @ params["b"], stats


def search():
    tx = optax.chain(survivors(), survivor_decay(LAYERS, 0.3, 1), optax.sgd(0.1, momentum=0.9))
    return search_trainer(tx, LAYERS), {"n": N, "pace": PACE}


def straight():
    return through_trainer(optax.chain(sr_ste(0.1), optax.sgd(0.1, momentum=0.9)), LAYERS), N


def after(trainer, target, placement=None, **options):
    """Makes two steps; returns the state and the losses."""
    placement = placement or Placement(make_mesh(), {})
    loss = losses.cross_entropy(ignore_label=-1)
    step = trainer_step(apply, loss, trainer, keep=partial(kept, placement), **options)
    first = trainer.init(jax.tree.map(jnp.asarray, PARAMS), target)
    state = place(placement, first_state(first.params, {}, first.state))
    found = []
    for _ in range(2):
        batch = split_batch(placement.mesh, BATCH)
        state, value = step(state, target, batch, jax.random.key(0))
        found.append(float(value))
    return state, found


@pytest.mark.parametrize("trainer", [search, straight])
def test_a_step_in_parts_is_that_of_the_whole_batch(trainer):
    """On two devices, that share every part; parts count as many labels as they have."""
    spread = partial(accumulated, parts=4, count=losses.counting(-1))
    whole, whole_losses = after(*trainer())
    parts, part_losses = after(*trainer(), spread=spread)
    np.testing.assert_allclose(part_losses, whole_losses, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


def test_devices_keep_the_examples_that_they_have():
    """No example moves from one device to another: gradients alone are summed over them."""
    placement = Placement(make_mesh(), {})
    trainer, target = straight()
    spread = partial(accumulated, parts=4, count=losses.counting())
    step = trainer_step(
        apply, losses.cross_entropy(), trainer, keep=partial(kept, placement), spread=spread
    )
    first = trainer.init(jax.tree.map(jnp.asarray, PARAMS), target)
    state = place(placement, first_state(first.params, {}, first.state))
    batch = split_batch(placement.mesh, BATCH)
    text = step.lower(state, target, batch, jax.random.key(0)).compile().as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


def test_labels_are_counted():
    labels = {"labels": jnp.array([[0, -1], [-1, 2], [1, 1]], jnp.int32)}
    assert int(losses.counting(-1)(labels)) == 4
    assert int(losses.counting()(labels)) == 6


def test_statistics_follow_the_parts_and_keys_differ():
    """Parts are examples 0, 2, ... and 1, 3, ...; the second one sees what the first one left."""

    def noting(params, stats, inputs, *, train, key):
        stats = {"mean": 0.5 * stats["mean"] + inputs.mean(), "draw": jax.random.uniform(key)}
        return inputs @ params["w"], stats

    def total(outputs, batch):
        return outputs.sum()

    key = jax.random.key(3)
    batch = {"inputs": jnp.array([[1.0], [10.0], [3.0], [30.0]]), "labels": jnp.zeros(4, "i4")}
    gradient = accumulated(whole_gradient(noting, total), 2, losses.counting())
    stats = {"mean": jnp.float32(8), "draw": jnp.float32(0)}
    value, stats, grads = jax.jit(gradient)({"w": jnp.ones((1, 1))}, stats, batch, key)
    assert float(stats["mean"]) == 0.5 * (0.5 * 8 + 2) + 20
    assert float(stats["draw"]) == float(jax.random.uniform(jax.random.fold_in(key, 1)))
    assert float(value) == float(grads["w"][0, 0]) == (4 + 40) / 2  # the mean of the parts' sums


def test_parts_take_less_memory():
    wide = {"a": jnp.zeros((8, 512)), "b": jnp.zeros((512, 4))}
    shape = jax.ShapeDtypeStruct
    batch = {"inputs": shape((512, 8), jnp.float32), "labels": shape((512,), jnp.int32)}
    whole = whole_gradient(apply, losses.cross_entropy())
    found = []
    for gradient in (whole, accumulated(whole, 8, losses.counting())):
        lowered = jax.jit(gradient).lower(wide, {}, batch, jax.random.key(0))
        found.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert found[1] < found[0] / 4

"""Weights split over 'model': never within a group, and a step that is that of one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from made import layer

from domino_jax.allocate.domino import domino
from domino_jax.core.canonical import Axes
from domino_jax.train import losses
from domino_jax.train.mesh import make_mesh, split_batch
from domino_jax.train.placement import Placement, kept, place, placement_of, shardings
from domino_jax.train.step import first_state, search_step
from domino_jax.train.trainer import search_trainer
from domino_jax.train.transforms import survivor_decay, survivors

IO = Axes((), (), (0,), (1,))
OI = Axes((), (), (1,), (0,))
HEADS = Axes((), (), (0,), (1, 2))
M4 = (1, 2, 4)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    ("sizes", "axes", "weights", "thresholds"),
    [
        ((64, 32), IO, PartitionSpec(None, "model"), PartitionSpec(None, None, None, "model")),
        ((32, 64), OI, PartitionSpec("model"), PartitionSpec(None, None, None, "model")),
        # 31 outputs do not divide: the inputs, in whole groups.
        ((64, 31), IO, PartitionSpec("model"), PartitionSpec(None, None, "model")),
        # Half of 60 inputs is no multiple of 4, and 31 is odd.
        ((60, 31), IO, PartitionSpec(), PartitionSpec()),
        ((64, 4, 8), HEADS, PartitionSpec(None, "model"), PartitionSpec(*[None] * 3, "model")),
        # Split along the second axis of the outputs, the flattened ones would be no row.
        ((60, 3, 8), HEADS, PartitionSpec(), PartitionSpec()),
        ((8, 4), IO, PartitionSpec(), PartitionSpec()),  # small
    ],
)
def test_where_kernels_are_split(sizes, axes, weights, thresholds):
    layers = (layer("a/kernel", sizes, axes, 1, M4),)
    params = {"a": {"kernel": shape(*sizes)}, "b": {"kernel": shape(8, 4)}}
    placement = placement_of(make_mesh(1, 2), layers, params)
    outputs = int(np.prod([sizes[axis] for axis in axes.outputs]))
    inputs = sizes[axes.inputs[0]]
    tree = {
        "params": params,
        "masks": {"a/kernel": shape(*sizes)},
        "threshold": {"a/kernel": shape(1, 1, -(-inputs // 4), outputs)},
        "a": {"kernel": shape(3)},  # another shape: it belongs to no weight
    }
    found = jax.tree.map(lambda sharding: sharding.spec, shardings(placement, tree))
    assert found["params"]["a"]["kernel"] == found["masks"]["a/kernel"] == weights
    assert found["threshold"]["a/kernel"] == thresholds
    assert found["params"]["b"]["kernel"] == found["a"]["kernel"] == PartitionSpec()
    large = np.prod(sizes) >= 1024
    assert placement.whole == (("a/kernel",) if large and weights == PartitionSpec() else ())


def test_other_parameters_are_split_along_their_longest_axis():
    params = {"embedding": shape(1001, 8), "odd": shape(1001, 3)}
    placement = placement_of(make_mesh(1, 2), (), params)
    assert placement.split == {("embedding", (1001, 8)): 1}
    assert placement.whole == ("odd",)


def test_one_part_splits_nothing():
    params = {"a": shape(64, 64)}
    assert placement_of(make_mesh(), (layer("a", (64, 64), IO, 1, M4),), params).split == {}


def test_a_search_on_two_parts_is_that_on_one():
    """Votes and steps, the weights of two layers split in both ways and one whole."""
    rng = np.random.default_rng(0)
    sizes = {"a": (64, 32), "b": (64, 32), "c": (64, 15)}  # the last one is small
    layers = tuple(
        layer(name, sizes[name], axes, 1, M4) for name, axes in (("a", IO), ("b", OI), ("c", IO))
    )
    params = {name: np.float32(rng.normal(size=sizes[name])) for name in sizes}
    batch = {"inputs": np.float32(rng.normal(size=(8, 64))), "labels": np.arange(8, dtype="i4")}
    tx = optax.chain(survivors(), survivor_decay(layers, 0.3, 1), optax.sgd(0.1, momentum=0.9))
    search = domino(layers, 0.5, vote_ratio=0.3)

    def apply(p, stats, x, *, train, key):
        hidden = jax.nn.relu(x @ p["a"])
        return hidden @ p["b"].T @ p["c"], stats

    def run(placement):
        step = search_step(apply, losses.cross_entropy(), tx, layers, keep=partial(kept, placement))
        first = search_trainer(tx, layers).init(params, None)
        state = place(placement, first_state(first.params, {}, first.state))
        where = place(placement, search.init(state.params))
        for _ in range(3):
            target = {"n": where.n, "pace": where.pace}
            state, _ = step(state, target, split_batch(placement.mesh, batch), jax.random.key(0))
            where = search.update(where, state.params)
        return state, where

    parts = make_mesh(1, 2)
    split = placement_of(parts, layers, params)
    assert len(split.split) == 4 and split.whole == ()
    one, on_one = run(Placement(make_mesh(), {}))
    two, on_two = run(split)
    assert two.params["a"].sharding.spec == PartitionSpec(None, "model")
    assert two.opt_state[2][0].trace["b"].sharding.spec == PartitionSpec("model")
    assert on_two.threshold["a"].sharding.spec == PartitionSpec(None, None, None, "model")
    assert [int(n) for n in on_one.n.values()] == [int(n) for n in on_two.n.values()] != [4, 4, 4]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

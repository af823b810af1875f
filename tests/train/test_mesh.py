"""Two virtual devices share a batch and do what one does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from domino_jax.trace.layers import find_layers
from domino_jax.train import evaluation, losses
from domino_jax.train import mesh as devices
from domino_jax.train.placement import Placement, kept, place
from domino_jax.train.step import init_state, search_step
from domino_jax.train.transforms import survivor_decay, survivors

WHOLE = Placement(devices.make_mesh(), {})  # every array on every device


@pytest.mark.parametrize("error", [RuntimeError("no such\nbackend"), AssertionError()])
def test_no_device_is_one_line(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "gpux")
    with pytest.raises(ValueError, match=r"starts no device .*'gpux'.*: (no such|its plug)") as e:
        devices.require_devices()
    assert "\n" not in str(e.value)


def test_the_mesh_has_all_devices():
    assert jax.device_count() == 2  # tests/conftest.py
    mesh = devices.make_mesh()
    assert mesh.shape == {"data": 2, "model": 1}
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 2


def test_parts_of_the_mesh():
    assert devices.axis_sizes(-1, 1) == devices.axis_sizes(2, 1) == (2, 1)
    assert devices.axis_sizes(-1, 2) == devices.axis_sizes(1, 2) == (1, 2)


@pytest.mark.parametrize(
    ("data", "model"), [(0, 1), (1, 1), (-1, 0), (-1, 3), (2, 2), (-2, 1), (-1, -2)]
)
def test_parts_that_are_not_the_devices(data, model):
    with pytest.raises(
        ValueError, match=rf"mesh\.data x mesh\.model: .*the 2 device\(s\).* got {data} x {model}$"
    ):
        devices.axis_sizes(data, model)


def test_batches_are_split_along_their_leading_axis():
    batch = {"inputs": np.arange(12, dtype=np.float32).reshape(4, 3), "labels": np.arange(4)}
    batch["labels"] = batch["labels"].astype(np.int32)
    split = devices.split_batch(devices.make_mesh(), batch)
    for name, value in batch.items():
        assert split[name].shape == value.shape
        assert split[name].dtype == value.dtype
        parts = {shard.device.id: shard.data for shard in split[name].addressable_shards}
        np.testing.assert_array_equal(parts[0], value[:2])
        np.testing.assert_array_equal(parts[1], value[2:])


def test_states_are_copied_whole():
    state = {"w": jnp.arange(4.0), "step": np.int32(3)}
    copy = place(WHOLE, state)
    assert jax.tree.structure(copy) == jax.tree.structure(state)
    for name, value in state.items():
        assert copy[name].dtype == value.dtype
        assert [s.data.tolist() for s in copy[name].addressable_shards] == [value.tolist()] * 2
    jax.jit(lambda x: x + 1, donate_argnums=0)(copy["w"])
    assert copy["w"].is_deleted()
    assert state["w"].tolist() == [0, 1, 2, 3]  # a step that donates the copy leaves the original


@pytest.mark.parametrize("batch", [2, 64])
def test_batches_that_divide(batch):
    devices.require_divides(batch, 2, "dense.batch")


@pytest.mark.parametrize("batch", [0, -2, 1, 63])
def test_batches_that_do_not_divide(batch):
    message = rf"train\.batch: expected a multiple of the 2 part\(s\) of mesh\.data, got {batch}$"
    with pytest.raises(ValueError, match=message):
        devices.require_divides(batch, 2, "train.batch")


# Batch normalization over the whole batch: wrong if each device took its own half. Left to
# itself the compiler would leave `last`, a row for each example, split over the devices.
def apply(params, stats, inputs, *, train, key):
    hidden = inputs @ params["a"]
    mean, var = hidden.mean(0), hidden.var(0)
    hidden = (hidden - mean[None]) * jax.lax.rsqrt(var + 1e-5)[None]
    mean, var = (0.9 * stats[k] + 0.1 * v for k, v in (("mean", mean), ("var", var)))
    stats = {"mean": mean, "var": var, "last": hidden}
    dropped = jax.random.bernoulli(key, 0.5, hidden.shape)
    return jnp.where(dropped, 0.0, jax.nn.relu(hidden)) @ params["b"], stats


def training():
    """Returns a search step, its state, its masks and paces, and batches whose halves differ."""
    rng = np.random.default_rng(0)
    params = {"a": np.float32(rng.normal(size=(8, 4))), "b": np.float32(rng.normal(size=(4, 2)))}
    shapes = {"mean": (4,), "var": (4,), "last": (8, 4)}
    stats = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    key = jax.random.key(0)
    layers = find_layers(
        lambda p, x: apply(p, stats, x, train=True, key=key)[0], params, np.zeros((2, 8), "f"), 4
    )
    tx = optax.chain(
        survivors(), survivor_decay(layers, 0.1, 2), optax.sgd(0.5, momentum=0.9, nesterov=True)
    )
    state = jax.device_get(init_state(params, stats, tx))
    control = {
        "n": {"a": np.int32(3), "b": np.int32(2)},
        "pace": dict.fromkeys("ab", np.float32(1)),
    }
    offset = np.repeat([[0.0], [5.0]], 4, axis=0)
    batches = [
        {"inputs": np.float32(rng.normal(size=(8, 8)) + offset), "labels": np.int32([0, 1] * 4)}
        for _ in range(3)
    ]
    make = lambda **options: search_step(  # noqa: E731
        apply, losses.cross_entropy(), tx, layers, **options
    )
    return make, state, control, batches


def test_a_step_on_two_devices_is_that_on_one():
    make, state, control, batches = training()
    key, seen = jax.random.key(1), []
    alone, shared = jax.tree.map(jnp.asarray, state), place(WHOLE, state)
    whole = NamedSharding(WHOLE.mesh, PartitionSpec())
    on_one, on_two = make(), make(keep=partial(kept, WHOLE))
    for batch in batches:
        alone, loss_alone = on_one(alone, control, batch, key)
        shared, loss_shared = on_two(shared, control, devices.split_batch(WHOLE.mesh, batch), key)
        seen.append((float(loss_alone), float(loss_shared)))
    np.testing.assert_allclose(*zip(*seen, strict=True), rtol=1e-5)
    for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        assert two.sharding.is_equivalent_to(whole, two.ndim)
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert np.abs(alone.params["a"] - state.params["a"]).max() > 0.01


def test_evaluation_on_two_devices_is_that_on_one():
    _, state, _, batches = training()
    step = evaluation.eval_step(apply)
    batches = [batch | {"weight": np.float32([1] * 7 + [0])} for batch in batches]
    alone = evaluation.evaluate(step, state.params, state.stats, batches)
    params, stats = place(WHOLE, (state.params, state.stats))
    shared = evaluation.evaluate(
        step, params, stats, (devices.split_batch(WHOLE.mesh, b) for b in batches)
    )
    assert shared == pytest.approx(alone, rel=1e-5)


def test_what_was_replicated_may_be_given_away():
    """A step that donates its state leaves the arrays that it was made of."""
    for leaf in (jnp.arange(8.0), np.arange(8.0, dtype=np.float32), jnp.float32(3)):
        held = place(WHOLE, leaf)
        jax.jit(lambda x: x + 1, donate_argnums=0)(held)
        assert np.asarray(leaf).sum() == np.asarray(place(WHOLE, leaf)).sum()

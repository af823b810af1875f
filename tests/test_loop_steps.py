"""One step of each kind, evaluation and recalibration, on hand-drawn numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax import loop
from domino_jax.layers import find_layers
from domino_jax.sparsify import fixed_masks, sr_ste, survivor_decay, survivors

KEY = jax.random.key(7)


# A network of one product; its statistics follow the inputs and show the key of the last step.
def apply(params, stats, inputs, *, train, key):
    if train:
        mean = 0.9 * stats["mean"] + 0.1 * inputs.mean(0)
        stats = {"mean": mean, "draw": jax.random.uniform(key)}
    return inputs @ params["w"], stats


def total_output(outputs, batch):
    return outputs.sum()


W = [1.0, -4.0, 3.0, 2.0]
X = jnp.array([[1.0, 2.0, 3.0, 4.0]])
BATCH = {"inputs": X, "labels": jnp.array([0])}


# Fresh arrays each time: a step donates its state.
def params():
    return {"w": jnp.array(W)[:, None]}


def stats():
    return {"mean": jnp.zeros(4), "draw": jnp.zeros([])}


def layers():
    return find_layers(lambda p, x: x @ p["w"], params(), X, 4)


def after(step, control, tx, steps=1):
    """Makes some steps with the same batch; returns the loss of the last, and the weights."""
    state = loop.init_state(params(), stats(), tx)
    for _ in range(steps):
        state, loss = step(state, control, BATCH, KEY)
    return float(loss), np.asarray(state.params["w"])[:, 0].tolist()


def test_dense_step():
    tx = optax.sgd(0.5)
    # The gradient of the sum of x w is x.
    expected = 1 - 8 + 9 + 8, [0.5, -5.0, 1.5, 0.0]
    assert after(loop.dense_step(apply, total_output, tx), None, tx) == expected


def test_search_step_masks_and_decays_survivors():
    tx = optax.chain(survivors(), survivor_decay(layers(), 0.5, every=2), optax.sgd(1.0))
    step = loop.search_step(apply, total_output, tx, layers())
    control = {"n": {"w": jnp.int32(2)}, "pace": {"w": jnp.float32(-1.0)}}
    # Kept: -4 and 3; w - x + 0.5 w there.
    assert after(step, control, tx) == (-8 + 9, [1.0, -8.0, 1.5, 2.0])
    # Then 2 of the others has overtaken 1.5: kept are -8 and 2; no decay in the second step.
    assert after(step, control, tx, steps=2) == (-16 + 8, [1.0, -10.0, 1.5, -2.0])


def test_sparse_step_takes_masks_anew():
    tx = optax.chain(sr_ste(0.25), optax.sgd(0.5))
    step = loop.sparse_step(apply, total_output, tx, layers())
    # Gradient x for all; outside the mask also 0.25 w.
    one = [1 - 0.5 - 0.125, -4 - 1.0, 3 - 1.5, 2 - 2.0 - 0.25]
    assert after(step, {"w": jnp.int32(2)}, tx) == (1.0, one)
    assert after(step, {"w": jnp.int32(2)}, tx, steps=2)[0] == 2 * one[1] + 3 * one[2]
    assert after(step, {"w": jnp.int32(1)}, tx, steps=2)[0] == 2 * one[1]


def test_fixed_step_keeps_its_masks():
    tx = fixed_masks(optax.sgd(1.0))
    masks = {"w": jnp.array([[True], [False], [False], [True]])}
    step = loop.fixed_step(apply, total_output, tx)
    assert after(step, masks, tx) == (1 + 8, [0.0, -4.0, 3.0, -2.0])
    assert after(step, masks, tx, steps=2) == (-8, [-1.0, -4.0, 3.0, -6.0])


def test_the_key_of_a_step_is_folded_from_its_number():
    tx = optax.sgd(0.1)
    state = loop.init_state(params(), stats(), tx)._replace(step=jnp.int32(3))
    seen = []
    loop.run_train(
        loop.dense_step(apply, total_output, tx),
        state,
        None,
        itertools.repeat(BATCH),
        KEY,
        steps=6,
        hooks=loop.Hooks(
            log=lambda step, loss, state: seen.append(float(state.stats["draw"])), log_every=1
        ),
    )
    assert seen == [float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in (3, 4, 5)]


def test_evaluate_counts_each_example_once():
    # Class 1 wins where x > 0. Five examples in batches of two, the last one filled up.
    def net(params, stats, inputs, *, train, key):
        assert not train
        return jnp.concatenate([jnp.zeros_like(inputs), inputs * params + stats], axis=1), stats

    x, labels = np.float32([1, -1, 2, 3, -3, 9]), np.int32([1, 0, 0, 1, 1, 0])
    weight = np.float32([1, 1, 1, 1, 1, 0])
    batches = [
        {"inputs": x[i : i + 2, None], "labels": labels[i : i + 2], "weight": weight[i : i + 2]}
        for i in (0, 2, 4)
    ]
    found = loop.evaluate(loop.eval_step(net), jnp.float32(2), jnp.float32(0), iter(batches))
    margins = 2 * np.where(labels == 1, x, -x)[:5]
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "loss": np.log1p(np.exp(-margins)).mean()}, rel=1e-5
    )


def test_evaluate_of_many_classes_has_the_top5():
    def net(params, stats, inputs, *, train, key):
        return jnp.tile(jnp.arange(12.0), (len(inputs), 1)), stats

    labels = jnp.arange(12, dtype=jnp.int32)
    batch = {"inputs": jnp.zeros((12, 1)), "labels": labels, "weight": jnp.ones(12)}
    found = loop.evaluate(loop.eval_step(net), {}, {}, [batch, batch])
    assert list(found) == ["loss", "accuracy", "top5"]
    assert (found["accuracy"], found["top5"]) == (1 / 12, 5 / 12)


def test_recalibrate_changes_the_statistics_only():
    weights, old = params(), stats()
    batches = [{"inputs": X}, {"inputs": 2 * X}, {"inputs": X}]
    found = loop.recalibrate(apply, weights, old, batches)
    np.testing.assert_allclose(found["mean"], X[0] * (0.081 + 0.18 + 0.1), rtol=1e-6)
    assert np.asarray(weights["w"])[:, 0].tolist() == W
    assert np.asarray(old["mean"]).tolist() == [0] * 4

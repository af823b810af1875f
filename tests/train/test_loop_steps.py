"""One step of each kind on hand-drawn numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from domino_jax.trace.layers import find_layers
from domino_jax.train import loop
from domino_jax.train.step import dense_step, init_state, search_step, trainer_step
from domino_jax.train.trainer import through_trainer
from domino_jax.train.transforms import sr_ste, survivor_decay, survivors

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
    state = init_state(params(), stats(), tx)
    for _ in range(steps):
        state, loss = step(state, control, BATCH, KEY)
    return float(loss), np.asarray(state.params["w"])[:, 0].tolist()


def test_dense_step():
    tx = optax.sgd(0.5)
    # The gradient of the sum of x w is x.
    expected = 1 - 8 + 9 + 8, [0.5, -5.0, 1.5, 0.0]
    assert after(dense_step(apply, total_output, tx), None, tx) == expected


def test_search_step_masks_and_decays_survivors():
    tx = optax.chain(survivors(), survivor_decay(layers(), 0.5, every=2), optax.sgd(1.0))
    step = search_step(apply, total_output, tx, layers())
    control = {"n": {"w": jnp.int32(2)}, "pace": {"w": jnp.float32(-1.0)}}
    # Kept: -4 and 3; w - x + 0.5 w there.
    assert after(step, control, tx) == (-8 + 9, [1.0, -8.0, 1.5, 2.0])
    # Then 2 of the others has overtaken 1.5: kept are -8 and 2; no decay in the second step.
    assert after(step, control, tx, steps=2) == (-16 + 8, [1.0, -10.0, 1.5, -2.0])


def test_sparse_step_takes_masks_anew():
    tx = optax.chain(sr_ste(0.25), optax.sgd(0.5))
    step = trainer_step(apply, total_output, through_trainer(tx, layers()))
    # Gradient x for all; outside the mask also 0.25 w.
    one = [1 - 0.5 - 0.125, -4 - 1.0, 3 - 1.5, 2 - 2.0 - 0.25]
    assert after(step, {"w": jnp.int32(2)}, tx) == (1.0, one)
    assert after(step, {"w": jnp.int32(2)}, tx, steps=2)[0] == 2 * one[1] + 3 * one[2]
    assert after(step, {"w": jnp.int32(1)}, tx, steps=2)[0] == 2 * one[1]


def test_the_key_of_a_step_is_folded_from_its_number():
    tx = optax.sgd(0.1)
    state = init_state(params(), stats(), tx)._replace(step=jnp.int32(3))
    seen = []
    loop.run_train(
        dense_step(apply, total_output, tx),
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

"""Everything that a run compiles lowers for a TPU and for a GPU, on a machine that has neither.

Traced from shapes: nothing is compiled and nothing is executed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest

from domino_jax.allocate import domino, fisher, kronecker, votes
from domino_jax.allocate.update import update_matrix
from domino_jax.core.canonical import Axes
from domino_jax.core.masked import PATTERNS, make_masks
from domino_jax.models.convolution import convolution
from domino_jax.run.settings import defaults
from domino_jax.trace import taps
from domino_jax.trace.adding import tapper
from domino_jax.train import evaluation, losses
from domino_jax.train.gradients import accumulated
from domino_jax.train.remat import recomputing
from domino_jax.train.step import dense_step, first_state, search_step, trainer_step
from domino_jax.train.trainer import Training
from domino_jax.train.trainers import TRAINERS, make_trainer
from domino_jax.train.transforms import survivor_decay, survivors

HWIO, IO = Axes((), (0, 1), (2,), (3,)), Axes((), (), (0,), (1,))
SIZES = {"body": (3, 3, 8, 8), "fc": (8, 4)}
LAYERS = (
    made.layer("body", SIZES["body"], HWIO, 1, (1, 2, 4)),
    made.layer("fc", SIZES["fc"], IO, 1, (1, 2, 4)),
)
N = dict.fromkeys(SIZES, np.int32(2))
PARAMS = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in SIZES.items()}
BATCH = {
    "inputs": jax.ShapeDtypeStruct((4, 2, 2, 8), jnp.float32),
    "labels": jax.ShapeDtypeStruct((4,), jnp.int32),
}
KEY = jax.eval_shape(lambda: jax.random.key(0))
SGD = optax.sgd(0.1, momentum=0.9)
LOSS = losses.cross_entropy()


def apply(params, stats, inputs, *, train, key):
    """Has images so small that they take another way on a CPU."""
    hidden = convolution(
        inputs, params["body"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(hidden).mean((1, 2)) @ params["fc"], stats


def loss(params, batch):
    return LOSS(apply(params, {}, batch["inputs"], train=False, key=None)[0], batch)


def lowered(function, *arguments):
    """Lowers for both platforms; returns the texts."""
    function = function if hasattr(function, "trace") else jax.jit(function)
    traced = function.trace(*arguments)
    return [traced.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda")]


def state_of(init):
    return jax.eval_shape(lambda params: first_state(params, {}, init(params)), PARAMS)


def search_arguments():
    tx = optax.chain(survivors(), survivor_decay(LAYERS, 0.1), SGD)
    pace = dict.fromkeys(SIZES, np.float32(1))
    step = search_step(apply, LOSS, tx, LAYERS)
    return step, state_of(tx.init), {"n": N, "pace": pace}, BATCH, KEY


def sums_of_taps():
    ones = jax.tree.map(lambda spec: jnp.ones(spec.shape, spec.dtype), (PARAMS, BATCH))
    ready = tapper(loss, *ones, LAYERS)
    zeros = jax.eval_shape(lambda: {name: ready.zeros(name, False, True) for name in ready.paths})
    assert set(zeros) == set(SIZES)
    return lambda *given: ready.add(*given, None), zeros, PARAMS, BATCH


def means_of_taps():
    _, zeros, *_ = sums_of_taps()
    return taps._means, zeros["fc"], jax.ShapeDtypeStruct((), jnp.float32)


def rise_of_kronecker():
    means, *sums = means_of_taps()
    found = jax.eval_shape(means, *sums)
    rise = partial(kronecker._rise, IO, IO, 4)
    w = PARAMS["fc"]
    return rise, w, w, 0, found._replace(products=None), found.products, 2


def sums_of_fisher():
    add = fisher.adding(fisher.Gradients(LAYERS, loss, 1, 1), fisher.by_rank(LAYERS))
    sums = {path: jax.ShapeDtypeStruct((1, 4), jnp.float32) for path in N}
    return (lambda *given: add(*given, 1)), sums, PARAMS, {}, BATCH


def thresholds():
    return lambda params: domino._thresholds(LAYERS, params, {"body": 4, "fc": 4}), PARAMS


def vote():
    threshold = jax.eval_shape(*thresholds())
    return partial(votes._stacked_counts, LAYERS), PARAMS, N, threshold


def update():
    h = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    return lambda w, h: update_matrix(w, h, 2, 4), PARAMS["fc"], h


def dense_in_parts():
    spread = partial(accumulated, parts=2, count=losses.counting())
    trainer = make_trainer("straight_through", training("straight_through"))
    step = trainer_step(recomputing(apply), LOSS, trainer, spread=spread)
    return step, state_of(lambda params: trainer.init(params, N).state), N, BATCH, KEY


def training(name):
    options = dict(defaults().train.items())
    options |= {"optimizer": "adamw"} if name == "step" else {}
    return Training(LAYERS, 4, lambda step: 0.1, options, batches=lambda: ())


PROGRAMS = {
    "masks": lambda: (lambda params: make_masks(params, LAYERS, N), PARAMS),
    "masks of any place": lambda: (
        lambda params: PATTERNS["unstructured"](params, LAYERS, N),
        PARAMS,
    ),
    "thresholds": thresholds,
    "vote": vote,
    "sums of taps": sums_of_taps,
    "means of taps": means_of_taps,
    "kronecker": rise_of_kronecker,
    "fisher": sums_of_fisher,
    "SparseGPT's update": update,
    "evaluation": lambda: (
        evaluation.eval_step(apply),
        *(PARAMS, {}, BATCH | {"weight": jax.ShapeDtypeStruct((4,), jnp.float32)}),
    ),
    "dense step": lambda: (dense_step(apply, LOSS, SGD), state_of(SGD.init), None, BATCH, KEY),
    "search step": search_arguments,
    "step in parts that recomputes": dense_in_parts,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_lower(name):
    assert all("func.func public @main" in text for text in lowered(*PROGRAMS[name]()))


@pytest.mark.parametrize("name", TRAINERS)
def test_steps_of_trainers_lower_and_give_their_state_away(name):
    trainer = make_trainer(name, training(name))
    with jax.numpy_dtype_promotion("standard"):  # Optax's own bias correction mixes types
        start = jax.eval_shape(lambda params: trainer.init(params, N), PARAMS)
        state = first_state(start.params, {}, start.state)
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        texts = lowered(trainer_step(apply, LOSS, trainer), state, start.target, BATCH, KEY)
    for text in texts:
        assert text.count("tf.aliasing_output") == len(jax.tree.leaves(state))

"""The steps of one network, dense and sparse, ready to be compiled: shared by two benchmarks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from domino_jax import find_layers, models, n_by_path
from domino_jax.allocate.uniform import uniform
from domino_jax.core import compiling
from domino_jax.train import losses
from domino_jax.train.step import TrainState, dense_step, init_state, search_step, trainer_step
from domino_jax.train.trainer import through_trainer
from domino_jax.train.transforms import sr_ste, survivor_decay, survivors

CLASSES = 1000


@dataclass(frozen=True)
class Bench:
    """One training step and what it is called with.

    Attributes:
        make: makes the jitted step anew, so that it compiles anew.
        state: makes the state before the first step, which the step gives away.
        control: second argument of the step.
        batch: third argument.
        key: fourth argument.
    """

    make: Callable[[], Any]
    state: Callable[[], TrainState]
    control: Any
    batch: Any
    key: jax.Array


def steps(name: str, m: int, size: int, batch: int) -> tuple[dict[str, Bench], int]:
    """Makes the search and the SR-STE step of a network, and the dense step of each.

    Args:
        name: of the network.
        m: group size; a quarter is kept.
        size: rows and columns of the images.
        batch: images of a step.

    Returns:
        'dense for search', 'search', 'dense for SR-STE', 'SR-STE'; the number of grouped weights.
    """
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = models.create(name, example=example, classes=CLASSES, seed=0)

    def forward(params: Any, inputs: Any) -> Any:
        return model.apply(params, model.stats, inputs, train=False, key=None)[0]

    layers = find_layers(forward, model.params, example, m)
    n = n_by_path(uniform(layers, m // 4), layers)
    pace = {path: jnp.float32(0.5) for path in n}
    apply, loss = model.apply, losses.cross_entropy()
    compiled: dict[str, Any] = {"compiler_options": compiling.options(example)}
    plain = optax.sgd(0.01)
    decayed = optax.chain(optax.add_decayed_weights(5e-5), optax.sgd(0.01, 0.9))
    shrinking = optax.chain(survivors(), survivor_decay(layers, 0.1, every=5), plain)
    ste = optax.chain(sr_ste(5e-4), decayed)
    made: dict[str, tuple[Callable[[], Any], Any, Any]] = {
        "dense for search": (lambda: dense_step(apply, loss, plain, **compiled), plain, None),
        "search": (
            lambda: search_step(apply, loss, shrinking, layers, **compiled),
            shrinking,
            {"n": n, "pace": pace},
        ),
        "dense for SR-STE": (lambda: dense_step(apply, loss, decayed, **compiled), decayed, None),
        "SR-STE": (
            lambda: trainer_step(apply, loss, through_trainer(ste, layers), **compiled),
            ste,
            n,
        ),
    }
    rng = np.random.default_rng(0)
    data = {
        "inputs": jnp.asarray(rng.normal(size=(batch, size, size, 3)), jnp.float32),
        "labels": jnp.asarray(rng.integers(0, CLASSES, batch), jnp.int32),
    }

    def state_of(tx: Any) -> Callable[[], TrainState]:
        return lambda: init_state(
            jax.tree.map(jnp.array, model.params), jax.tree.map(jnp.array, model.stats), tx
        )

    benches = {
        key: Bench(make, state_of(tx), control, data, jax.random.key(0))
        for key, (make, tx, control) in made.items()
    }
    return benches, sum(layer.size for layer in layers if not layer.reason)

"""Epsilons of batch norms, read from the trace."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from domino_jax import models
from domino_jax.core.paths import leaves_by_path
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.trace.norms import epsilons


def _read(apply, stats, inputs):
    return epsilons(jax.make_jaxpr(apply)(stats, inputs), list(leaves_by_path(stats)))


class Norms(nnx.Module):
    """Ours with two epsilons, and Flax's own."""

    def __init__(self) -> None:
        self.ours = nnx.List([BatchNorm(3), BatchNorm(3, epsilon=0.25)])
        self.flax = nnx.BatchNorm(3, epsilon=0.125, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.jit(self.flax)(self.ours[1](self.ours[0](x)))


def test_epsilons_are_read_from_the_trace():
    model = models.from_nnx(Norms())

    def apply(stats, x):
        return model.apply(model.params, stats, x, train=False, key=None)[0]

    found = _read(apply, model.stats, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert found == {"ours/0": pytest.approx(1e-5), "ours/1": 0.25, "flax": 0.125}


def test_an_epsilon_that_is_an_array_of_the_network_is_not_read():
    stats = {"bn": {"var": jnp.ones(3), "mean": jnp.ones(3)}, "epsilon": jnp.ones(())}

    def apply(stats, x):
        root = jax.lax.rsqrt(stats["bn"]["var"] + stats["epsilon"][None])
        return (x - stats["bn"]["mean"][None]) * root[None]

    assert _read(apply, stats, jnp.ones((2, 3))) == {}

"""What tables by curvature expect, in the units of the loss."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.problem import Problem, Weights
from domino_jax.allocate.table import allocate
from domino_jax.core.costs import budget_of
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers
from domino_jax.train.losses import counting

TOKENS, OPTIONS = 8, {"calibration_batches": 1, "calibration_statistics": "running"}
OPTIONS |= {"score": "magnitude", "low_memory": False}


def network():
    """Softmax regression on each token, and labels as it expects them."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(0, 0.3, (16, 5)), jnp.float32)}
    x = jnp.asarray(rng.normal(size=(512, TOKENS, 16)), jnp.float32)
    labels = jax.random.categorical(jax.random.key(0), x @ params["w"])
    return params, {"inputs": x, "labels": labels}


def loss(params, stats, batch):
    outputs = batch["inputs"] @ params["w"]
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"]).mean()


@pytest.mark.parametrize("method", ["fisher", "kdiag", "kronecker"])
def test_the_expected_rise_is_that_of_the_loss_over_many_labels_an_example(method):
    params, batch = network()
    layers = find_layers(
        lambda params, x: x @ params["w"], params, batch["inputs"], 4, candidates=(2, 3, 4)
    )
    kept = {}
    problem = Problem(
        layers=layers,
        budget=budget_of(layers, 0.75),
        options=OPTIONS,
        weights=lambda: Weights(params, {}),
        loss=loss,
        batches=lambda first, count: [batch] * count,
        keep=kept.__setitem__,
        labels_of=counting(),
    )
    allocate(method, problem)
    row = json.loads(kept["table.json"])["layers"]["w"]
    of_scheme = joint_loss(layers, params, lambda params, batch: loss(params, {}, batch), [batch])
    dense = of_scheme({"w": NM(4, 4)})
    for n in (2, 3):
        rise = of_scheme({"w": NM(n, 4)}) - dense
        assert row[str(n)] == pytest.approx(rise, rel=0.25)

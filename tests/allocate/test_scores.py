"""What masks keep the largest of: the scores by name, and tables and losses of masks by them."""

import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.allocate.fisher import fisher_information, fisher_table
from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.kronecker import kronecker_table
from domino_jax.allocate.quadratic import quadratic_table
from domino_jax.allocate.scores import make_scores
from domino_jax.core.errors import InputError
from domino_jax.core.masked import hard_mask, make_masks
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers

RNG = np.random.default_rng(0)
PARAMS = {"s": jnp.asarray(RNG.normal(size=(2, 8, 8)), jnp.float32)}
# Inputs of very different sizes: magnitude alone chooses otherwise.
X = jnp.asarray(RNG.normal(size=(6, 8)) * 10.0 ** RNG.uniform(-1, 1, 8), jnp.float32)


def apply(p, x):
    return jnp.tanh(x @ p["s"][0]) @ p["s"][1]


def loss(params, x):
    return jnp.square(apply(params, x) - 1).sum(1).mean()


LAYERS = find_layers(apply, PARAMS, X, 4)


def scores(name):
    return make_scores(name, LAYERS, PARAMS, loss, [X])


def test_wanda_is_the_weight_times_the_norm_of_its_input():
    inputs = X, jnp.tanh(X @ PARAMS["s"][0])
    norms = np.stack([np.sqrt(np.square(x).mean(0)) for x in inputs])
    np.testing.assert_allclose(
        scores("wanda")["s"], np.abs(PARAMS["s"]) * norms[:, :, None], rtol=1e-5
    )


def test_fisher_and_magnitude():
    information = fisher_information(LAYERS, PARAMS, loss, [X], micro=3)["s"]
    np.testing.assert_allclose(scores("fisher")["s"], jnp.square(PARAMS["s"]) * information)
    assert scores("magnitude") == {}


def test_tables_and_losses_are_of_the_masks_by_the_score():
    by_norm = scores("wanda")
    n = {"s": jnp.asarray([2, 4], jnp.int32)}
    masks = make_masks(PARAMS, LAYERS, n, scores=by_norm)
    assert (masks["s"] != make_masks(PARAMS, LAYERS, n)["s"]).any()
    true = loss(hard_mask(PARAMS, LAYERS, n, scores=by_norm), X)
    of_scheme = joint_loss(LAYERS, PARAMS, loss, [X], scores=by_norm)
    assert of_scheme({"s#0": NM(2, 4), "s#1": NM(4, 4)}) == pytest.approx(float(true))
    curvature = {"s": jnp.ones((2, 8, 8))}
    removed = 0.5 * jnp.square(jnp.where(masks["s"], 0.0, PARAMS["s"])).sum()
    table = quadratic_table(LAYERS, PARAMS, curvature, by_norm)
    assert table["s#0"][2] == pytest.approx(float(removed), rel=1e-5)
    for make in (fisher_table, kronecker_table):
        table = make(LAYERS, PARAMS, loss, [X], scores=by_norm)
        assert table["s#0"][2] != pytest.approx(make(LAYERS, PARAMS, loss, [X])["s#0"][2], rel=1e-3)


def test_wrong_scores_are_refused():
    with pytest.raises(InputError, match="unknown score 'wand'; nearest: wanda"):
        scores("wand")
    with pytest.raises(InputError, match="'own_parts:negative_scores': s: expected scores of 0 or"):
        scores("own_parts:negative_scores")

"""Half the sum of F w² removed, F from one example's gradients or from micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.allocate.fisher import fisher_table
from domino_jax.allocate.quadratic import quadratic_table
from domino_jax.core.errors import InputError
from domino_jax.core.masked import make_masks
from domino_jax.trace.layers import find_layers

RNG = np.random.default_rng(0)
PARAMS = {
    "stack": jnp.asarray(RNG.normal(size=(2, 8, 8)), jnp.float32),
    "head": {
        "kernel": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
        "bias": jnp.zeros((1, 3)),
    },
}
BATCHES = [jnp.asarray(RNG.normal(size=(6, 8)), jnp.float32) for _ in range(3)]


def apply(params, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def loss(params, batch):
    return jnp.square(apply(params, batch)).mean()


LAYERS = find_layers(apply, PARAMS, BATCHES[0][:1], 4)
PATHS = {"stack#0": ("stack", 0), "stack#1": ("stack", 1), "head/kernel": ("head/kernel", ...)}


def by_hand(micro):
    """The same table with one gradient at a time and boolean masks."""
    squares = {"stack": 0.0, "head/kernel": 0.0}
    parts = [part for batch in BATCHES for part in jnp.split(batch, 6 // micro)]
    for part in parts:
        grads = jax.grad(loss)(PARAMS, part)
        squares["stack"] += np.square(grads["stack"])
        squares["head/kernel"] += np.square(grads["head"]["kernel"])
    weights = {"stack": PARAMS["stack"], "head/kernel": PARAMS["head"]["kernel"]}
    table = {}
    for name, (path, index) in PATHS.items():
        table[name] = {}
        for n in (1, 2, 4):
            removed = ~np.asarray(make_masks(PARAMS, LAYERS, {"stack": n, "head/kernel": n})[path])
            each = micro / len(parts) * squares[path] * np.square(weights[path]) / 2
            table[name][n] = (each * removed)[index].sum()
    return table


@pytest.mark.parametrize(("micro", "at_once"), [(1, 1), (1, 3), (2, 3), (6, 1)])
def test_one_pass_gives_every_candidate(micro, at_once):
    done = []
    table = fisher_table(
        LAYERS, PARAMS, loss, BATCHES, micro=micro, at_once=at_once, report=done.append
    )
    wanted = by_hand(micro)
    assert list(table) == list(wanted)
    for name, row in wanted.items():
        assert list(table[name]) == list(row)
        for n, value in row.items():
            assert table[name][n] == pytest.approx(float(value), rel=1e-4), (name, n)
    assert done == [1, 2, 3]


def test_the_scale_is_that_of_the_loss():
    """At the optimum of a softmax network F is the second derivative of the loss."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(4000, 4)), jnp.float32)
    w = jnp.asarray([[1.0, -1.0], [0.05, -0.02], [-1.0, 0.5], [0.02, 0.04]])
    labels = jax.random.categorical(jax.random.key(0), x @ w)

    def entropy(w, batch):
        inputs, label = batch
        return -jnp.take_along_axis(jax.nn.log_softmax(inputs @ w), label[:, None], 1).mean()

    params = {"w": w}
    own = find_layers(lambda p, x: x @ p["w"], params, x[:1], 4)

    def own_loss(params, batch):
        return entropy(params["w"], batch)

    for micro in (1, 4):
        table = fisher_table(own, params, own_loss, [(x, labels)], micro=micro)
        hessian = jax.hessian(entropy)(w, (x, labels))
        diagonal = np.einsum("ijij->ij", hessian)
        removed = ~np.asarray(make_masks(params, own, {"w": 2})["w"])
        wanted = 0.5 * (diagonal * np.square(w) * removed).sum()
        assert table["w"][2] == pytest.approx(float(wanted), rel=0.1)


def test_curvature_that_is_not_finite_is_refused():
    curvature = {"stack": jnp.full((2, 8, 8), jnp.nan), "head/kernel": jnp.ones((8, 3))}
    with pytest.raises(InputError, match="stack#0: expected finite squared gradients"):
        quadratic_table(LAYERS, PARAMS, curvature)


def test_micro_batches_that_do_not_fill_a_batch_are_refused():
    with pytest.raises(InputError, match=r"micro-batches of 4 examples, 1 at once, .*of 6"):
        fisher_table(LAYERS, PARAMS, loss, BATCHES, micro=4)
    with pytest.raises(InputError, match="at least one calibration batch"):
        fisher_table(LAYERS, PARAMS, loss, [])

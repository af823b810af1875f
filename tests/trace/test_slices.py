"""Experts that one product computes for all inputs: each slice has statistics of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tapped import B, by_hooks, floats, require_like, require_same_one_by_one, tapped

from domino_jax.trace.forms import Form, Reads
from domino_jax.trace.slices import split
from domino_jax.trace.views import Piece

pytestmark = pytest.mark.usefixtures("users_promotion")
E, F = 3, 6
X = floats(B, 5, 4)
P = {"r": floats(4, E), "w": floats(E, 4, F), "v": floats(E, F, 2)}


def one_by_one(hook, p, x, gated):
    """The experts written out, with a hook at each product."""
    gates = jax.nn.softmax(hook(x, x @ p["r"])) if gated else jnp.ones((*x.shape[:2], E))
    total = jnp.zeros(())
    for e in range(E):
        gate = gates[..., e : e + 1]
        hidden = jnp.tanh(hook(x, x @ p["w"][e])) * (gate if gated == "before" else 1.0)
        result = hook(hidden, hidden @ p["v"][e])
        total = total + result * (gate if gated == "after" else 1.0)
    return total


def hidden(p, x):
    return jnp.tanh(jnp.einsum("btd,edf->btef", x, p["w"]))


def summed(p, x):
    return jnp.einsum("btef,efo->bto", hidden(p, x), p["v"])


def gated_before(p, x):
    gates = jax.nn.softmax(x @ p["r"])
    return jnp.einsum("btef,efo->bto", hidden(p, x) * gates[..., None], p["v"])


def gated_in_one_einsum(p, x):
    gates = jax.nn.softmax(x @ p["r"])
    return jnp.einsum("bte,btef,efo->bto", gates, hidden(p, x), p["v"])


def vmapped(p, x):
    """One expert as a function, all of them by vmap."""
    gates = jax.nn.softmax(x @ p["r"])
    each = jax.vmap(lambda w: jnp.tanh(x @ w))(p["w"])
    return jnp.einsum("ebtf,efo->bto", each * jnp.moveaxis(gates, 2, 0)[..., None], p["v"])


@pytest.mark.parametrize(
    ("apply", "gated"),
    [
        (summed, ""),
        (gated_before, "before"),
        (gated_in_one_einsum, "after"),
        (vmapped, "before"),
    ],
)
def test_experts_that_are_all_computed(apply, gated):
    pairs = by_hooks(lambda *of: one_by_one(*of, gated), P, X)
    taps = tapped(apply, P, X)
    assert taps.untapped == {}
    if gated:
        require_like(taps.statistics["r"], pairs.pop(0))
    for e in range(E):
        require_like(taps.statistics[f"w#{e}"], pairs[2 * e])
        require_like(taps.statistics[f"v#{e}"], pairs[2 * e + 1])
    require_same_one_by_one(apply, P, X, taps)


def test_experts_of_each_layer_of_a_scan():
    params = {"w": floats(2, E, 4, F), "v": floats(2, E, F, 4)}

    def block(x, p):
        each = jnp.tanh(jnp.einsum("btd,edf->btef", x, p["w"]))
        return x + jnp.einsum("btef,efo->bto", each, p["v"]), None

    def network(hook, p, x):
        for i in range(2):
            for e, total in enumerate([x] * E):
                hidden = jnp.tanh(hook(total, total @ p["w"][i, e]))
                x = x + hook(hidden, hidden @ p["v"][i, e])
        return x

    pairs = by_hooks(network, params, X)
    taps = tapped(lambda p, x: lax.scan(block, x, p)[0], params, X)
    assert taps.untapped == {}
    for i in range(2 * E):
        require_like(taps.statistics[f"w#{i}"], pairs[2 * i])
        require_like(taps.statistics[f"v#{i}"], pairs[2 * i + 1])


def test_both_in_one_product():
    """By hand: w [E=2, F=3, K=4, O=5]; all of E meet the inputs, the results of F are added up."""
    outer, inner, k, o = (Piece(axis, 1, size) for axis, size in enumerate((2, 3, 4, 5)))
    x, g = np.arange(2 * 12.0).reshape(2, 12), np.arange(2 * 10.0).reshape(2, 10)  # two rows
    reads = Reads(lambda x: x[None], lambda x: x[None, None], lambda g: g[None])
    made = split(Form((), (inner, k), (outer, o), 1, reads), (0, 1))
    assert (made.slices, made.inputs, made.outputs) == ([outer, inner], (k,), (o,))
    rows, grads = made.reads.rows(jnp.asarray(x)), made.reads.grads(jnp.asarray(g))
    for e in range(2):
        for f in range(3):
            np.testing.assert_array_equal(rows[3 * e + f, 0], x[:, 4 * f : 4 * f + 4])
            np.testing.assert_array_equal(grads[3 * e + f], g[:, 5 * e : 5 * e + 5])

"""Weights whose rows are picked by an index that no input gives: in the budget, but dense.

Letters: T tokens, D features, O outputs. T = 6, D = 16, O = 4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import floats

from domino_jax.core.canonical import Axes
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.moves import REORDERED

X = jax.ShapeDtypeStruct((2, 6, 16), jnp.float32)
ORDER = np.random.default_rng(0).permutation(16)
SHUFFLED = jnp.stack([jnp.roll(jnp.arange(16), column) for column in range(4)], 1)

pytestmark = pytest.mark.usefixtures("users_promotion")


def by_a_key(w):
    return w[jax.random.permutation(jax.random.key(0), 16)]


@pytest.mark.parametrize(
    ("reordered", "rows"),
    [
        (lambda w: w[ORDER], 16),
        (lambda w: w[jnp.arange(16)[::-1]], 16),
        (by_a_key, 16),
        (lambda w: jnp.take(w, jnp.array([2, 0, 1, 3]), axis=1), 16),
        (lambda w: jnp.take_along_axis(w, SHUFFLED, axis=0), 16),
        (lambda w: w[jnp.array(ORDER)[:, None], jnp.array([[3, 1, 0, 2]])], 16),
        (lambda w: w[np.array([[3, 1], [0, 2]])].reshape(4, 4), 4),
        (lambda w: w[np.array([5, 2, 9, 7])], 4),
        (lambda w: 2 * w[ORDER] * jnp.ones((16, 4)), 16),
    ],
)
def test_kernels_in_another_order_count_and_stay_dense(reordered, rows):
    apply = lambda w, x: x[..., :rows] @ reordered(w)  # noqa: E731
    (kernel,) = find_kernels(apply, floats(16, 4), X)
    assert (kernel.macs, kernel.reason, kernel.groups) == (6 * rows * 4, REORDERED, None)
    assert kernel.roles == Axes((), (), (0,), (1,))


def test_an_order_of_stacked_kernels():
    """Each token with a whole matrix: its groups are what they were."""
    apply = lambda w, x: jnp.einsum("btd,tdo->bto", x, w[ORDER[ORDER < 6]])  # noqa: E731
    kernels = find_kernels(apply, floats(6, 16, 4), X)
    assert sum(kernel.macs for kernel in kernels) == 6 * 64
    assert {kernel.reason for kernel in kernels} == {None}


def test_an_order_that_is_a_parameter():
    apply = lambda p, x: x @ p["w"][p["order"]]  # noqa: E731
    params = {"w": floats(16, 4), "order": jax.ShapeDtypeStruct((16,), jnp.int32)}
    (kernel,) = (k for k in find_kernels(apply, params, X) if k.path == "w")
    assert (kernel.macs, kernel.reason) == (6 * 64, REORDERED)


@pytest.mark.parametrize(
    "look_up",
    [
        lambda p, x: x + p["t"][jnp.arange(6)],
        lambda p, x: x * p["t"][ORDER[:6]],
        lambda p, x: x + jnp.tanh(p["t"][jnp.arange(6)] @ p["q"]),
        lambda p, x: x + (p["t"][np.array([1, 2])] @ np.ones((16, 16), "float32")).sum(0),
        lambda p, x: jnp.concatenate([x, p["t"][jnp.arange(2)][None].repeat(x.shape[0], 0)], 1),
        lambda p, x: x + p["t"][np.zeros((6, 6), int)].sum(0),
        lambda p, x: jnp.where(x > 0, x, p["t"][jnp.arange(6)]),
    ],
)
def test_rows_of_a_table_are_no_kernel(look_up):
    params = {"t": floats(9, 16), "q": floats(16, 16), "w": floats(16, 4)}
    kernels = find_kernels(lambda p, x: look_up(p, x) @ p["w"], params, X)
    (table,) = (kernel for kernel in kernels if kernel.path == "t")
    assert (table.roles, table.macs, table.reason) == (None, 0, "only looked up")
    (query,) = (kernel for kernel in kernels if kernel.path == "q")
    assert query.reason in (None, "not used")

"""Kernels that operations make over that the trace does not know: no product falls out of a budget.

Letters: w [16, 16] is made over and multiplied with x [1, 16], then v [16, 8] with the result.
"""

import jax
import jax.numpy as jnp
import pytest
from traced import floats

from domino_jax.core.canonical import Axes
from domino_jax.trace.kernels import find_kernels

X = jax.ShapeDtypeStruct((2, 16), jnp.float32)
PARAMS = {"w": floats(16, 16), "v": floats(16, 8)}

pytestmark = pytest.mark.usefixtures("users_promotion")


@pytest.mark.parametrize(
    ("make_over", "reason"),
    [
        (lambda w: w.at[0].set(0.0), "scatter"),
        (lambda w: w.at[:3].multiply(2.0), "scatter-mul"),
        (lambda w: jax.lax.dynamic_update_slice(w, jnp.zeros((4, 16)), (0, 0)), "dynamic_update"),
        (lambda w: jnp.cumsum(w, 0), "cumsum"),
        (lambda w: jnp.sort(w, 0), "sort"),
        (lambda w: jnp.linalg.qr(w)[0], "qr"),
        (jnp.linalg.inv, ""),
        (lambda w: w + w.T, "add"),
        (lambda w: jnp.cumsum(w, 0).T.reshape(4, 4, 16).reshape(16, 16), "cumsum"),
    ],
)
def test_a_kernel_made_over_counts_and_stays_dense(make_over, reason):
    def apply(p, x):
        return (x @ make_over(p["w"])) @ p["v"]

    kernel, second = find_kernels(apply, PARAMS, X)
    assert (kernel.path, kernel.macs) == ("w", 256)
    assert kernel.reason.startswith(f"goes into {reason}")
    assert {*kernel.roles.inputs, *kernel.roles.outputs} == {0, 1}
    assert (second.macs, second.reason) == (128, None)


def test_a_spectral_norm_measures():
    apply = lambda p, x: (x @ (p["w"] / jnp.linalg.norm(p["w"], 2))) @ p["v"]  # noqa: E731
    kernel, _ = find_kernels(apply, PARAMS, X)
    assert (kernel.path, kernel.macs, kernel.reason) == ("w", 256, None)
    whitened = lambda p, x: (x @ jnp.linalg.svd(p["w"])[0]) @ p["v"]  # noqa: E731
    assert find_kernels(whitened, PARAMS, X)[0].reason == "goes into svd"


def test_orthogonal_recurrence():
    def apply(p, x):
        q = jnp.linalg.qr(p["w"])[0]
        return jax.lax.scan(lambda h, t: (jnp.tanh(h @ q + t), None), x, jnp.ones((5, 1, 16)))[0]

    (kernel,) = find_kernels(apply, {"w": floats(16, 16)}, X)
    assert (kernel.roles, kernel.macs) == (Axes((), (), (0,), (1,)), 5 * 256)

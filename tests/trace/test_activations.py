import jax
import jax.numpy as jnp
import pytest
from jax import lax

from domino_jax.models.attention import attend
from domino_jax.trace.activations import activation_macs

F = jnp.float32
X = jax.ShapeDtypeStruct((5, 6, 8), F)  # a batch of 5 counts as one
W = jax.ShapeDtypeStruct((8, 8), F)
BOTH = 2 * 6 * 6 * 8


def attention(w, x, causal=False):
    q = x @ w
    return attend(q, q, q, heads=2, causal=causal)


def scanned(w, x):
    return lax.scan(lambda x, _: (attention(w, x), None), x, None, length=3)[0]


def scanned_late(w, x):
    # What is multiplied depends on the inputs from the third pass on only.
    def body(carry, _):
        return (x @ w, carry[0]), carry[1] @ carry[1].swapaxes(1, 2)

    start = jnp.zeros((1, 6, 8)), jnp.zeros((1, 6, 8))
    return lax.scan(body, start, None, length=4)[1]


def looped(w, x):
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: attention(w, x), x)


def chosen(w, x):
    return lax.cond(x.sum() > 0, lambda: attention(w, x), lambda: x)


def convolved(w, x):
    dims = ("NWC", "WIO", "NWC")
    kernel = x.reshape(3, 2, 8)  # computed from the inputs
    return lax.conv_general_dilated(x[..., :2], kernel, (1,), "SAME", dimension_numbers=dims)


@pytest.mark.parametrize(
    ("apply", "macs"),
    [
        (lambda w, x: jax.nn.relu(x @ w) * x, 0),
        (lambda w, x: x @ (w @ w.T), 0),
        (attention, BOTH),
        (jax.jit(attention), BOTH),
        (jax.checkpoint(attention), BOTH),
        (scanned, 3 * BOTH),
        (scanned_late, 4 * 6 * 6 * 8),
        (looped, BOTH),
        (chosen, BOTH),
        (convolved, 6 * 8 * 3 * 2),
    ],
)
def test_by_hand(apply, macs):
    assert activation_macs(apply, W, X) == macs

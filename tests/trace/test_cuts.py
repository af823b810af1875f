"""Kernels cut along their inputs: no group crosses a cut.

Letters: B examples, T tokens, D features, O outputs.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from traced import floats

from domino_jax.core.canonical import Axes
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.layers import find_layers

F = jnp.float32
IO = Axes((), (), (0,), (1,))
X = jax.ShapeDtypeStruct((2, 6, 16), F)


pytestmark = pytest.mark.usefixtures("users_promotion")


def square(*names):
    return {name: floats(16, 16) for name in names}


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def halves(cut, step=1):
    """Sums over parts of the inputs apart, with a nonlinearity between them."""

    def apply(p, x):
        if step > 1:
            return sum(jnp.tanh(x[..., i::step] @ p["w"][i::step]) for i in range(step))
        return jnp.tanh(x[..., :cut] @ p["w"][:cut]) + x[..., cut:] @ p["w"][cut:]

    return apply


@pytest.mark.parametrize(
    ("apply", "together"),
    [
        (halves(6), 2),
        (halves(8), 8),
        (halves(4), 4),
        (halves(5), 1),
        (halves(0, step=2), 1),
        (lambda p, x: jnp.einsum("bti,io->bto", x[..., :4], p["w"].reshape(4, 4, 16)[1]), 4),
        (lambda p, x: x[..., :8] @ lax.dynamic_slice_in_dim(p["w"], x.size, 8), 8),
        (lambda p, x: x[..., :8] @ lax.dynamic_slice_in_dim(p["w"], jnp.int32(x.sum()), 8), 1),
        (lambda p, x: x @ p["w"], None),
    ],
)
def test_groups_lie_within_what_is_summed_together(apply, together):
    (kernel,) = find_kernels(apply, square("w"), X)
    assert kernel.together == together
    for m in (2, 4, 8):
        if together and together % m:
            with pytest.raises(ValueError, match=f"parts of {together}, no multiple of {m}"):
                find_layers(apply, square("w"), X, m)
        else:
            (layer,) = find_layers(apply, square("w"), X, m)
            assert layer.m == m
    if together and together > 1:
        (layer,) = find_layers(apply, square("w"), X, 16, [("w", "shrink")])
        assert layer.m == together


def test_flattened_groups_do_not_cross_a_cut_either():
    apply = lambda p, x: halves(6)(p, x) @ p["v"]  # noqa: E731
    layers = find_layers(apply, square("w", "v"), X, 4, [("w", "flatten")])
    assert layers[0].groups is None
    assert "parts of 2, no multiple of 4" in layers[0].reason


@pytest.mark.parametrize(
    ("rows", "together", "flat"),
    [
        ([slice(0, 1), slice(1, 3)], None, 12),
        ([slice(0, 3, 2), slice(1, 2)], None, 12),
        ([slice(0, 3)], None, None),
    ],
)
def test_a_kernel_cut_along_its_window(rows, together, flat):
    """Rows of a kernel [3, 3, 4, 16] in convolutions of their own: 3 * 4 inputs a row."""

    def apply(p, x):
        return sum(jnp.tanh(conv(x, p["w"][part])) for part in rows)

    params, x = {"w": floats(3, 3, 4, 16)}, floats(2, 6, 6, 4)
    (kernel,) = find_kernels(apply, params, x)
    assert (kernel.together, kernel.together_flat) == (together, flat)
    (layer,) = find_layers(apply, params, x, 4)
    assert layer.reason is None
    for m in (4, 8):
        if flat and flat % m:
            with pytest.raises(ValueError, match=f"cut along its window and inputs .* of {flat}"):
                find_layers(apply, params, x, m, [("w", "flatten")])
        else:
            (layer,) = find_layers(apply, params, x, m, [("w", "flatten")])
            assert layer.m == m


CUTS = {
    "split": lambda x, w: [
        jnp.tanh(a @ b) for a, b in zip(jnp.split(x, [3, 7], -1), jnp.split(w, [3, 7]), strict=True)
    ],
    "strided": lambda x, w: [x[..., 2:11:3] @ w[2:11:3]],
    "reversed": lambda x, w: [x[..., :9] @ w[8::-1]],
    "heads": lambda x, w: [x[..., :4] @ w.reshape(4, 4, 24)[i] for i in (0, 2)],
    "inner heads": lambda x, w: [x[..., :4] @ w.reshape(4, 4, 24)[:, 1]],
    "constant start": lambda x, w: [x[..., :5] @ lax.dynamic_slice(w, (6, 0), (5, 24))],
    "beyond the end": lambda x, w: [x[..., :5] @ lax.dynamic_slice(w, (14, 0), (5, 24))],
    "two axes": lambda x, w: [jnp.einsum("bti,iko->btko", x[..., :6], w.reshape(16, 4, 6)[2:8])],
}
PARTS = {
    "split": [range(3), range(3, 7), range(7, 16)],
    "strided": [range(2, 11, 3)],
    "reversed": [range(9)],
    "heads": [range(4), range(8, 12)],
    "inner heads": [range(1, 16, 4)],
    "constant start": [range(6, 11)],
    "beyond the end": [range(11, 16)],
    "two axes": [range(2, 8)],
}


@pytest.mark.parametrize("name", CUTS)
def test_no_group_crosses_any_cut(name):
    apply = lambda p, x: sum(y.sum() for y in CUTS[name](x, p["w"]))  # noqa: E731
    (kernel,) = find_kernels(apply, {"w": floats(16, 24)}, X)
    assert kernel.roles.inputs == (0,)
    span = kernel.together
    for part in PARTS[name]:
        for start in range(0, 16, span):
            assert len({i in part for i in range(start, start + span)}) == 1


def test_blocks_of_one_axis_are_one_dense_layer():
    def apply(p, x):
        rows = p["w"].reshape(2, 8, 16)
        return lax.scan(lambda c, w: (c + jnp.tanh(x[..., :8] @ w), None), x * 0, rows)[0]

    (kernel,) = find_kernels(apply, square("w"), X)
    assert (kernel.name, kernel.roles, kernel.macs) == ("w", IO, 1536)
    assert kernel.reason == "axis 0 is both stack and inputs"

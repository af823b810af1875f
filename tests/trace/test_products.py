"""Roles and MACs of products against the Jacobian: a weight product is a non-zero derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from domino_jax.trace import weights
from domino_jax.trace.layers import find_layers
from domino_jax.trace.products import merge_roles


def conv(x, w, *, stride=1, groups=1, dilation=1, spec=("NHWC", "HWIO", "NHWC"), padding="VALID"):
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * (x.ndim - 2),
        padding,
        rhs_dilation=(dilation,) * (x.ndim - 2),
        dimension_numbers=spec,
        feature_group_count=groups,
    )


def transposed(x, w):
    return lax.conv_general_dilated(
        x, w, (1,), ((2, 2),), lhs_dilation=(2,), dimension_numbers=("NHC", "HIO", "NHC")
    )


FIRST = ("NCHW", "OIHW", "NCHW")
LINE = ("NHC", "HIO", "NHC")
S_, W_, I_, O_ = "stack", "window", "inputs", "outputs"
CASES = {
    "dense": (lambda x, w: x @ w, (4, 6), (1, 4), (I_, O_)),
    "dense, copies of the input": (
        jax.vmap(jnp.matmul, in_axes=(None, 0)),
        (3, 4, 2),
        (1, 4),
        (O_, I_, O_),
    ),
    "convolution": (conv, (3, 3, 2, 4), (1, 5, 6, 2), (W_, W_, I_, O_)),
    "several images": (conv, (2, 2, 2, 3), (3, 4, 4, 2), (W_, W_, I_, O_)),
    "1D": (functools.partial(conv, spec=LINE), (3, 2, 4), (1, 7, 2), (W_, I_, O_)),
    "stride": (functools.partial(conv, stride=2), (3, 3, 2, 4), (1, 7, 7, 2), (W_, W_, I_, O_)),
    "dilation": (functools.partial(conv, dilation=2), (2, 2, 2, 3), (1, 5, 5, 2), (W_, W_, I_, O_)),
    "channels first": (
        functools.partial(conv, spec=FIRST),
        (4, 2, 3, 3),
        (1, 2, 5, 5),
        (O_, I_, W_, W_),
    ),
    "groups": (functools.partial(conv, groups=2), (2, 2, 3, 4), (1, 4, 4, 6), (W_, W_, I_, O_)),
    "convolution, vmapped": (
        jax.vmap(conv, in_axes=(None, 0)),
        (3, 2, 2, 2, 4),
        (1, 4, 4, 2),
        (O_, W_, W_, I_, O_),
    ),
    "convolution as a dot": (
        lambda x, w: x @ w.reshape(8, 3),
        (2, 2, 2, 3),
        (1, 8),
        (I_, I_, I_, O_),
    ),
    "1x1 kernel as a dot": (lambda x, w: x @ w[0, 0], (1, 1, 4, 3), (1, 4), ("", "", I_, O_)),
    "vmapped": (jax.vmap(conv), (3, 2, 2, 2, 4), (3, 1, 4, 4, 2), (S_, W_, W_, I_, O_)),
    "vmapped twice": (
        jax.vmap(jax.vmap(conv)),
        (2, 2, 2, 2, 2, 3),
        (2, 2, 1, 3, 3, 2),
        (S_, S_, W_, W_, I_, O_),
    ),
    "vmapped, one output": (
        jax.vmap(conv),
        (3, 2, 2, 2, 1),
        (3, 1, 4, 4, 2),
        (S_, W_, W_, I_, O_),
    ),
    "vmapped groups": (
        jax.vmap(functools.partial(conv, groups=2)),
        (3, 2, 2, 2, 4),
        (3, 1, 3, 3, 4),
        (S_, W_, W_, I_, O_),
    ),
    "vmapped dense": (jax.vmap(jnp.matmul), (3, 4, 2), (3, 5, 4), (S_, I_, O_)),
    "heads": (
        functools.partial(jnp.einsum, "bthk,hkl->bthl"),
        (2, 3, 4),
        (1, 5, 2, 3),
        (S_, I_, O_),
    ),
    "transposed": (transposed, (2, 3, 4), (1, 5, 3), (W_, I_, O_)),
}


def uses(apply, shape, inputs):
    """Uses with the inputs as they are: the leading axis of the argument is a dummy."""
    struct = jax.ShapeDtypeStruct
    return weights.find_uses(
        lambda w, x: apply(x[0], w),
        struct(shape, jnp.float32),
        struct((1, *inputs), jnp.float32),
    )


def jacobian(apply, shape, inputs):
    """Whether output o (rows, flat) has a product with weight w (the other axes)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(1, 2, inputs), jnp.float32)
    rows = jax.jacrev(lambda w: apply(x, w))(jnp.ones(shape, jnp.float32))
    return np.asarray(rows).reshape(-1, *shape) != 0


@pytest.mark.parametrize("name", CASES)
def test_products_are_the_non_zero_derivatives(name):
    apply, shape, inputs, roles = CASES[name]
    (use,) = uses(apply, shape, inputs)
    touched = jacobian(apply, shape, inputs)
    assert use.roles == roles
    if name != "transposed":
        assert use.macs == touched.sum()
    for axis, role in enumerate(roles):
        others = tuple(a + 1 for a in range(len(shape)) if a != axis)
        reached = touched.any(axis=others).sum(axis=1)
        count = {S_: 1, O_: 1, I_: shape[axis]}.get(role)
        if count:  # an output of nothing but padding reaches no weight
            assert set(reached.tolist()) - {0} == {count}


def test_zeros_between_inputs_are_not_counted():
    (use,) = uses(transposed, (2, 3, 4), (1, 5, 3))
    assert use.macs == 5 * 2 * 3 * 4


def test_padding_is_counted():
    (use,) = uses(
        functools.partial(conv, stride=2, padding="SAME"), (7, 7, 3, 64), (1, 224, 224, 3)
    )
    assert use.macs == 118_013_952


@pytest.mark.parametrize(("stack", "channels"), [(1, 4), (3, 4)])
def test_depthwise(stack, channels):
    depthwise = functools.partial(conv, groups=channels)
    (use,) = uses(jax.vmap(depthwise), (stack, 3, 3, 1, channels), (stack, 1, 5, 5, channels))
    assert use.reason == "depthwise"
    assert use.macs == stack * 3 * 3 * 3 * 3 * channels


def test_depthwise_over_copies_of_the_input():
    depthwise = functools.partial(conv, groups=4)
    (use,) = uses(jax.vmap(depthwise, in_axes=(None, 0)), (3, 2, 2, 1, 8), (1, 5, 5, 4))
    assert use.reason == "depthwise"


def test_a_stack_of_one_channel_convolutions_is_not_depthwise():
    (use,) = uses(jax.vmap(conv), (3, 2, 2, 1, 4), (3, 1, 4, 4, 1))
    assert (use.reason, use.roles) == ("", (S_, W_, W_, I_, O_))


def test_an_image_that_is_a_parameter_is_no_kernel():
    (use,) = uses(lambda x, w: conv(w, x), (1, 5, 5, 2), (3, 3, 2, 4))
    assert (use.roles, use.reason) == ((), "goes into conv_general_dilated")


def test_blocks_along_the_inputs_are_trouble():
    apply = lambda x, w: jnp.einsum("bgi,gio->bgo", x, w.reshape(2, 4, 3))  # noqa: E731
    (use,) = uses(apply, (8, 3), (1, 2, 4))
    assert use.reason == "axis 0 is both stack and inputs"
    assert use.macs == 24


@pytest.mark.parametrize(
    ("first", "second", "size", "merged"),
    [
        (I_, I_, 4, I_),
        (I_, O_, 4, None),
        (S_, O_, 4, O_),
        (S_, I_, 4, None),
        ("", I_, 4, I_),
        (I_, O_, 1, I_),
    ],
)
def test_merged_roles(first, second, size, merged):
    assert merge_roles(first, second, size) == merged


def test_products_of_spread_inputs_under_a_stride():
    """Of 9 inputs, two zeros between each, every other place: as many as there are by hand."""

    def apply(p, x):
        return lax.conv_general_dilated(
            x, p["w"], (2,), ((2, 2),), lhs_dilation=(3,), dimension_numbers=LINE
        )

    params, x = {"w": jnp.ones((3, 4, 5))}, jnp.ones((1, 9, 4))
    (layer,) = find_layers(apply, params, x, 4)
    jacobian = jax.jacrev(lambda w: apply({"w": w}, x))(params["w"])
    assert layer.macs == np.count_nonzero(jacobian) == 14 * 4 * 5

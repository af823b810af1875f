"""The convolution over patches against JAX's own, and what a trace sees of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from domino_jax.models.convolution import convolution
from domino_jax.trace.kernels import find_kernels

NAMES = ("NHWC", "HWIO", "NHWC")
SHAPES = {
    "2x2 under 3x3": ((3, 2, 2, 64), (3, 3, 64, 64), (1, 1), ((1, 1), (1, 1))),
    "to 2x2 by strides": ((3, 4, 4, 64), (3, 3, 64, 65), (2, 2), ((1, 1), (1, 1))),
    "one pixel": ((3, 1, 1, 64), (1, 1, 64, 64), (1, 1), ((0, 0), (0, 0))),
    "kernel gradient": ((3, 12, 12, 48), (3, 3, 48, 40), (1, 1), ((1, 1), (1, 1))),
    "kernel gradient, uneven": ((2, 9, 14, 64), (5, 3, 64, 64), (1, 1), ((1, 3), (0, 2))),
    "kernel gradient by strides": ((2, 17, 16, 64), (3, 3, 64, 64), (2, 2), ((1, 1), (1, 1))),
    "uneven": ((2, 5, 2, 64), (3, 2, 64, 64), (3, 1), ((1, 0), (0, 1))),
}


def ours(x, w, strides, padding):
    return convolution(x, w, strides, padding, dimension_numbers=NAMES)


def jaxs(x, w, strides, padding):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NAMES)


def arrays(case):
    shape, window, strides, padding = SHAPES[case]
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in (shape, window))
    return x, w, strides, padding


@pytest.mark.parametrize("case", SHAPES)
def test_values_and_gradients_are_those_of_jax(case):
    x, w, strides, padding = arrays(case)

    def value_and_gradients(convolve):
        def loss(x, w):
            y = convolve(x, w, strides, padding)
            return jnp.sum(y**2), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, w)
        return y, *grads

    for a, b in zip(value_and_gradients(ours), value_and_gradients(jaxs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(b))))


def compiled(case, convolve):
    x, w, strides, padding = arrays(case)
    return jax.jit(lambda x, w: convolve(x, w, strides, padding)).lower(x, w).compile().as_text()


@pytest.mark.parametrize("case", [case for case in SHAPES if "kernel" not in case])
def test_no_convolution_is_left_on_cpu(case):
    assert "convolution(" in compiled(case, jaxs)
    assert "convolution(" not in compiled(case, ours)


def gradient_jaxpr(case, convolve, argument):
    x, w, strides, padding = arrays(case)
    return jax.grad(lambda x, w: jnp.sum(convolve(x, w, strides, padding)), argument), x, w


@pytest.mark.parametrize("case", [case for case in SHAPES if "kernel" in case])
def test_the_gradient_of_a_kernel_is_a_product_on_cpu(case):
    for convolve, wanted in ((jaxs, True), (ours, False)):
        gradient, x, w = gradient_jaxpr(case, convolve, 1)
        text = jax.jit(gradient).lower(x, w).compile().as_text()
        assert ("convolution(" in text) == wanted


def test_a_gradient_of_one_side_alone():
    x, w, strides, padding = arrays("kernel gradient")
    for side in (0, 1):
        found, wanted = (
            jax.jit(jax.grad(lambda x, w, f=f: jnp.sum(f(x, w, strides, padding) ** 2), side))(x, w)
            for f in (ours, jaxs)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(jnp.max(wanted)))


def test_a_second_derivative_and_a_directional_one():
    x, w, strides, padding = arrays("kernel gradient")

    def of(convolve):
        def loss(w):
            return jnp.sum(jnp.square(convolve(x, w, strides, padding)))

        return jax.jit(lambda w: jax.jvp(jax.grad(loss), (w,), (w,)))(w)

    for a, b in zip(of(ours), of(jaxs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_devices_see_convolutions_in_the_gradient(platform):
    gradient, x, w = gradient_jaxpr("kernel gradient", ours, (0, 1))
    text = jax.jit(gradient).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text
    assert "dot_general" not in text


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_devices_see_a_convolution(platform):
    x, w, strides, padding = arrays("2x2 under 3x3")
    traced = jax.jit(lambda x, w: ours(x, w, strides, padding)).trace(x, w)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text
    assert "dot_general" not in text


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((2, 4, 4, 64), (3, 3, 64, 64), {}),  # too many pixels, and too little work
        ((2, 2, 2, 16), (3, 3, 16, 16), {}),  # too few channels
        ((2, 2, 2, 128), (3, 3, 64, 128), {"feature_group_count": 2}),
        ((2, 4, 4, 64), (3, 3, 64, 64), {"rhs_dilation": (2, 2)}),
    ],
)
def test_all_others_are_as_ever(shape, window, options):
    def convolve(x, w):
        return convolution(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NAMES, **options)

    jaxpr = jax.make_jaxpr(convolve)(jnp.zeros(shape), jnp.zeros(window))
    assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["conv_general_dilated"]


@pytest.mark.parametrize("case", ["2x2 under 3x3", "kernel gradient"])
def test_a_trace_sees_the_convolution(case):
    shape, window, strides, padding = SHAPES[case]
    params = {"w": jax.ShapeDtypeStruct(window, jnp.float32)}
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    found, expected = (
        find_kernels(lambda p, x, f=f: f(x, p["w"], strides, padding), params, x)
        for f in (ours, jaxs)
    )
    assert found == expected
    (kernel,) = found
    assert (kernel.roles.window, kernel.roles.inputs) == ((0, 1), (2,))

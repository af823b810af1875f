"""Networks with hooks at every product, and statistics that taps must find by themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.taps import tap, tap_each

RNG = np.random.default_rng(0)
B = 3


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def mean_square(y):
    """Makes a loss of outputs [B, ...] that treats no two of them alike."""
    wanted = jnp.cos(jnp.arange(y[0].size, dtype=jnp.float32)).reshape(y[0].shape)
    return jnp.square(y - wanted).sum() / y.shape[0]


def by_hooks(network, params, x):
    """Runs network(hook, params, x); hook(inputs, outputs) -> outputs stands at every product.

    Returns:
        [(inputs, gradient of the summed loss by the outputs)], in order.
    """
    shapes = []

    def measure(x, y):
        del x
        shapes.append(y.shape)
        return y

    jax.eval_shape(lambda x: network(measure, params, x), x)

    def of(probes):
        inputs, left = [], iter(probes)

        def hook(x, y):
            inputs.append(x)
            return y + next(left)

        return mean_square(network(hook, params, x)) * len(x), inputs

    grads, inputs = jax.jit(jax.grad(of, has_aux=True))([jnp.zeros(shape) for shape in shapes])
    return list(zip(inputs, grads, strict=True))


def require_like(own, *uses):
    """Compares with rows of inputs [..., K] and of output gradients [..., O], of all uses."""
    x = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x, _ in uses])
    g = np.concatenate([np.asarray(g).reshape(-1, g.shape[-1]) for _, g in uses])
    wanted = x.T @ x / len(x), np.square(x).mean(0), np.square(g).mean(0), len(x) / B
    got = own.products[0], own.squares[0], own.gradients, own.rows
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def tapped(apply, params, x):
    """Taps a network, all layers at once."""
    layers = find_kernels(apply, params, x)
    return tap(lambda params, x: mean_square(apply(params, x)), params, [x], layers)


def require_same_one_by_one(apply, params, x, taps):
    layers = find_kernels(apply, params, x)

    def loss(params, x):
        return mean_square(apply(params, x))

    for name, own in tap_each(loss, params, [x], layers):
        if isinstance(own, str):
            assert taps.untapped[name] == own
        else:
            for a, b in zip(own, taps.statistics[name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def unhooked(x, y):
    del x
    return y


def flat(y):
    return y.reshape(*y.shape[:2], -1)


def patches(x, shape, strides, padding):
    """Cuts the patches of NHWC images: [B, H, W, window x channels], by JAX's own function."""
    cut = jax.lax.conv_general_dilated_patches(
        x, shape, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    by_channel = cut.reshape(*cut.shape[:-1], x.shape[-1], -1)  # channel-major
    return jnp.moveaxis(by_channel, -1, -2).reshape(cut.shape)

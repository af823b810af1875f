"""Shared parts of convolutional networks: grouped convolutions by hand, pooling as PyTorch's."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax import models
from domino_jax.models import convolutional, pooling
from domino_jax.models.linear import linear


def test_a_grouped_convolution_by_hand():
    """Two groups of two channels: each output sums its own group's alone."""
    layer = convolutional.conv(4, 2, 1, groups=2)
    assert layer.kernel.shape == (1, 1, 2, 2)
    layer.kernel[...] = jnp.asarray([[[[1.0, 10.0], [2.0, 20.0]]]])
    x = jnp.asarray([1.0, 2.0, 3.0, 4.0])[None, None, None]
    np.testing.assert_array_equal(layer(x), [[[[1 + 4, 30 + 80]]]])


def test_a_pool_by_hand():
    x = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(pooling.max_pool(x, 3, stride=2)[0, ..., 0], [[11]])
    rounded = pooling.max_pool(x, 3, stride=2, ceil=True)[0, ..., 0]
    np.testing.assert_array_equal(rounded, [[11, 12], [15, 16]])
    padded = pooling.max_pool(-x, 3, stride=4, padding=1)
    np.testing.assert_array_equal(padded, [[[[-1]]]])


@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("ceil", [False, True])
def test_pools_are_pytorchs(size, window, stride, padding, ceil):
    torch = importlib.import_module("torch")
    x = np.random.default_rng(0).normal(size=(2, size, size + 2, 3)).astype(np.float32) - 5
    pool = torch.nn.MaxPool2d(window, stride, padding, ceil_mode=ceil)
    wanted = pool(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    found = pooling.max_pool(jnp.asarray(x), window, stride=stride, padding=padding, ceil=ceil)
    np.testing.assert_array_equal(np.asarray(found).transpose(0, 3, 1, 2), wanted)


def test_a_list_in_turn_and_logits_in_the_dtype_of_the_weights():
    assert convolutional.in_turn([lambda x: x + 1, lambda x: 2 * x], jnp.asarray(3)) == 8
    layer = linear(2, 3, dtype="bfloat16")
    assert convolutional.logits(layer, jnp.ones((1, 2))).dtype == jnp.float32


def _make(shape, *, classes=3, dtype=None):
    return convolutional.make(
        lambda channels: nnx.Linear(channels, classes, rngs=nnx.Rngs(0)),
        example=jax.ShapeDtypeStruct(shape, jnp.float32),
        classes=classes,
        seed=0,
        dtype=dtype,
        smallest=4,
    )


def test_make_draws_weights_of_the_channels_of_the_example():
    model = _make((1, 4, 5, 7))
    assert isinstance(model, models.Model)
    assert model.params["kernel"].shape == (7, 3)
    assert np.any(np.asarray(model.params["kernel"]) != 0)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 4, 4), {}, r"one array of images \(1, rows, columns, channels\), got \(1, 4, 4\)"),
        ((1, 4, 3, 3), {}, r"here at least 4 by 4, got \(1, 4, 3, 3\)"),
        ((1, 4, 4, 0), {}, r"got \(1, 4, 4, 0\)"),
        ((1, 4, 4, 3), {"classes": 0}, "classes must be a positive integer, got 0"),
        ((1, 4, 4, 3), {"dtype": "float8"}, "unknown dtype 'float8'"),
    ],
)
def test_make_refuses(shape, options, message):
    with pytest.raises(ValueError, match=message):
        _make(shape, **options)

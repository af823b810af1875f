"""Attention against JAX's own, and where JAX's own does not serve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.models.attention import attend

HEADS, SIZE = 4, 8


def _parts(dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((2, 6, HEADS * SIZE)), dtype) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
def test_as_jax_computes_it(causal):
    parts = _parts(jnp.float32)
    apart = (x.reshape(2, 6, HEADS, SIZE) for x in parts)
    wanted = jax.nn.dot_product_attention(*apart, is_causal=causal).reshape(2, 6, HEADS * SIZE)
    found = attend(*parts, heads=HEADS, causal=causal)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [255, 256, 700])
def test_blocks_of_positions_change_nothing(length):
    """Values and gradients of long causal attention, against JAX's own."""
    rng = np.random.default_rng(0)
    parts = [jnp.asarray(rng.standard_normal((1, length, 16)), jnp.float32) for _ in range(3)]

    def whole(parts):
        apart = (x.reshape(1, length, 2, 8) for x in parts)
        return jax.nn.dot_product_attention(*apart, is_causal=True).reshape(1, length, 16)

    def ours(parts):
        return attend(*parts, heads=2, causal=True)

    cotangent = jnp.asarray(rng.standard_normal((1, length, 16)), jnp.float32)
    (found, pull), (wanted, pull_whole) = (jax.vjp(f, parts) for f in (ours, whole))
    pairs = zip((found, *pull(cotangent)[0]), (wanted, *pull_whole(cotangent)[0]), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_in_bfloat16_need_no_silent_promotion(causal):
    """Here `jax.nn.dot_product_attention` raises: tests promote strictly."""

    def total(parts):
        return attend(*parts, heads=HEADS, causal=causal).astype(jnp.float32).sum()

    low, exact = (jax.grad(total)(_parts(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    for low_leaf, leaf in zip(low, exact, strict=True):
        assert low_leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(low_leaf.astype(jnp.float32), leaf, rtol=0, atol=0.05)


def test_float64_is_float64_throughout():
    """Here `jax.nn.dot_product_attention` is 1e-8 off: its softmax is float32."""
    with jax.enable_x64(True):
        query, key, value = _parts(jnp.float64)
        found = attend(query, key, value, heads=HEADS, causal=False)
    q, k, v = (
        np.asarray(x).reshape(2, 6, HEADS, SIZE).transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    scores = q @ k.swapaxes(2, 3) / np.sqrt(SIZE)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = (shares @ v).transpose(0, 2, 1, 3).reshape(2, 6, HEADS * SIZE)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)

"""Layer normalization against its formula, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax.models.layer_norm import LayerNorm

EPSILON = 1e-3


def _inputs():
    # Far from zero: a difference of squares in float32 would lose the variance.
    return 300 + np.random.default_rng(0).standard_normal((3, 5, 16))


def _norm(dtype):
    norm = LayerNorm(16, epsilon=EPSILON)
    rng = np.random.default_rng(1)
    norm.scale = nnx.Param(jnp.asarray(rng.uniform(0.5, 2, 16), dtype))
    norm.bias = nnx.Param(jnp.asarray(rng.standard_normal(16), dtype))
    return norm


def _wanted(norm, inputs):
    scale, bias = (np.asarray(leaf[...], np.float64) for leaf in (norm.scale, norm.bias))
    centered = inputs - inputs.mean(-1, keepdims=True)
    return centered / np.sqrt(inputs.var(-1, keepdims=True) + EPSILON) * scale + bias


@pytest.mark.parametrize(
    ("dtype", "atol"), [(jnp.bfloat16, 0.02), (jnp.float32, 1e-4), (jnp.float64, 1e-11)]
)
def test_the_formula(dtype, atol):
    with jax.enable_x64(True):
        norm = _norm(jnp.float64 if dtype == jnp.float64 else jnp.float32)
        inputs = jnp.asarray(_inputs(), dtype)
        outputs = norm(inputs)
        assert outputs.dtype == dtype
        found, given = (np.asarray(x.astype(jnp.float64)) for x in (outputs, inputs))
    np.testing.assert_allclose(found, _wanted(norm, given), rtol=0, atol=atol)


def test_parameters_are_scale_and_bias_alone():
    """Checkpoints and state dicts of before name these two."""
    params = nnx.to_pure_dict(nnx.state(LayerNorm(16, epsilon=EPSILON)))
    assert {name: leaf.shape for name, leaf in params.items()} == {"scale": (16,), "bias": (16,)}

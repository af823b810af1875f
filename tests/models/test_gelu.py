"""GELU against JAX's own, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.models.gelu import gelu


@pytest.mark.parametrize(
    ("dtype", "atol"), [(jnp.bfloat16, 0), (jnp.float32, 1e-6), (jnp.float64, 1e-14)]
)
def test_values_and_slopes(dtype, atol):
    with jax.enable_x64(True):
        x = jnp.asarray(np.linspace(-6, 6, 101), dtype)
        ours, slopes = jax.jvp(gelu, (x,), (jnp.ones_like(x),))
        wanted = jax.jvp(lambda x: jax.nn.gelu(x, approximate=False), (x,), (jnp.ones_like(x),))
        assert ours.dtype == dtype
        for found, known in zip((ours, slopes), wanted, strict=True):
            np.testing.assert_allclose(
                *(np.asarray(v, np.float64) for v in (found, known)), rtol=0, atol=atol
            )

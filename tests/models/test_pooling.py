"""Max pooling against XLA's windows: values, gradients, ties and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax.models.pooling import max_pool

CASES = {
    "stem": ({"window": 3, "stride": 2, "padding": 1}, ((1, 1), (1, 1))),
    "halves": ({"window": 2, "stride": 2}, ((0, 0), (0, 0))),
    "ceil": ({"window": 3, "stride": 2, "ceil": True}, ((0, 1), (0, 0))),
    "overlapping": ({"window": 3, "stride": 1, "padding": 1}, ((1, 1), (1, 1))),
}


def _both(case, inputs):
    options, sides = CASES[case]
    window, stride = options["window"], options["stride"]

    def wanted(x):
        return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=sides)

    pulled = []
    for pool in (lambda x: max_pool(x, **options), wanted):
        outputs, pull = jax.vjp(jax.jit(pool), inputs)
        weights = np.random.default_rng(1).standard_normal(outputs.shape, np.float32)
        pulled.append((outputs, *pull(jnp.asarray(weights))))
    return pulled


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_windows(case):
    inputs = np.random.default_rng(0).standard_normal((2, 8, 9, 3), np.float32)
    ours, wanted = _both(case, jnp.asarray(inputs))
    np.testing.assert_array_equal(ours[0], wanted[0])
    np.testing.assert_allclose(ours[1], wanted[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_first_of_equal_values_gets_the_gradient(case):
    inputs = np.random.default_rng(0).integers(0, 2, (2, 8, 9, 3)).astype(np.float32)
    ours, wanted = _both(case, jnp.asarray(inputs))
    np.testing.assert_allclose(ours[1], wanted[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 1), (5, 6)])
def test_nan_is_seen(place):
    inputs = np.zeros((1, 8, 9, 1), np.float32)
    inputs[0, *place] = np.nan
    ours, wanted = _both("stem", jnp.asarray(inputs))
    assert np.isnan(ours[0]).any()
    np.testing.assert_array_equal(ours[0], wanted[0])


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_devices_see_windows(platform):
    pooled = jax.jit(lambda x: max_pool(x, 3, stride=2, padding=1)).trace(jnp.zeros((1, 8, 8, 2)))
    assert "stablehlo.reduce_window" in pooled.lower(lowering_platforms=(platform,)).as_text()

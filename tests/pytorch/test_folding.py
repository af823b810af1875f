"""Batch norm folded by hand; whole networks are folded in test_export.py and test_googlenet.py."""

import numpy as np
import pytest

from domino_jax.core.canonical import Axes
from domino_jax.pytorch.folding import fold

HWIO = Axes((), (0, 1), (2,), (3,))


def _by_hand():
    """Two outputs, of variances 3 and 0."""
    params = {
        "conv1/kernel": np.array([[[[2.0, 0.0]]]], np.float32),
        "bn1/scale": np.array([3.0, 1]),
        "bn1/bias": np.array([1.0, 0]),
    }
    return params, {"bn1/mean": np.array([4.0, 2]), "bn1/var": np.array([3.0, 0])}


def test_fold_by_hand():
    params, stats = _by_hand()
    found = fold(params, stats, {"conv1/kernel": HWIO}, {"bn1": 1.0})
    np.testing.assert_allclose(found.params["conv1/kernel"], [[[[3.0, 0.0]]]])
    np.testing.assert_allclose(found.params["bn1/bias"], [1 - 4 * 1.5, -2.0])
    np.testing.assert_array_equal(found.stats["bn1/var"], [0, 0])
    assert found.convolutions == {"bn1": "conv1/kernel"}


def test_the_bias_of_a_convolution_goes_into_the_norms():
    params, stats = _by_hand()
    params["conv1/bias"] = np.array([6.0, -1.0])
    found = fold(params, stats, {"conv1/kernel": HWIO}, {"bn1": 1.0})
    np.testing.assert_allclose(found.params["bn1/bias"], [1 + (6 - 4) * 1.5, -1 - 2.0])
    np.testing.assert_array_equal(found.params["conv1/bias"], [0, 0])


@pytest.mark.parametrize(
    ("norm", "convolution"),
    [
        ("layer1/0/bn2", "layer1/0/conv2"),
        ("trunk_output/block1/block1-0/f/a/1", "trunk_output/block1/block1-0/f/a/0"),
        ("inception3a/branch1/bn", "inception3a/branch1/conv"),
        ("features/41", "features/40"),
        ("norm", "conv"),
    ],
)
def test_names(norm, convolution):
    kernel = f"{convolution}/kernel"
    params = {
        kernel: np.ones((1, 1, 1, 1)),
        f"{norm}/scale": np.ones(1),
        f"{norm}/bias": np.ones(1),
    }
    stats = {f"{norm}/mean": np.ones(1), f"{norm}/var": np.ones(1)}
    assert fold(params, stats, {kernel: HWIO}, {norm: 0.1}).convolutions == {norm: kernel}


def test_refusals():
    params, stats = _by_hand()
    with pytest.raises(ValueError, match="batch norm bn1: no convolution conv1/kernel"):
        fold({k: v for k, v in params.items() if k != "conv1/kernel"}, stats, {}, {})
    with pytest.raises(ValueError, match="batch norm bn1: nothing is seen to be added"):
        fold(params, stats, {"conv1/kernel": HWIO}, {})
    with pytest.raises(ValueError, match="no batch norm"):
        fold(params, {}, {}, {})

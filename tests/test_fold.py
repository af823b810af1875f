"""Batch norm folded by hand; whole networks are folded in test_export.py."""

import numpy as np
import pytest

from domino_jax.fold import fold
from domino_jax.masks import Axes


def test_fold_by_hand():
    kernel = np.array([[[[2.0, 0.0]]]], np.float32)
    params = {
        "conv1/kernel": kernel,
        "bn1/scale": np.array([3.0, 1]),
        "bn1/bias": np.array([1.0, 0]),
    }
    stats = {"bn1/mean": np.array([4.0, 2]), "bn1/var": np.array([3.0, 0])}
    found = fold(params, stats, {"conv1/kernel": Axes((), (0, 1), (2,), (3,))}, epsilon=1.0)
    np.testing.assert_allclose(found.params["conv1/kernel"], [[[[3.0, 0.0]]]])
    np.testing.assert_allclose(found.params["bn1/bias"], [1 - 4 * 1.5, -2.0])
    assert found.convolutions == {"bn1": "conv1/kernel"}
    with pytest.raises(ValueError, match="batch norm bn1: no convolution conv1/kernel"):
        fold({k: v for k, v in params.items() if k != "conv1/kernel"}, stats, {})
    with pytest.raises(ValueError, match="no batch norm"):
        fold(params, {}, {})

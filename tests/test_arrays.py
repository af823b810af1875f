"""Data sets of arrays."""

import numpy as np
import pytest

from domino_jax.data.arrays import from_arrays

X, Y = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


def test_batches_and_counts():
    data = from_arrays((X, Y), (X[:3], Y[:3]), classes=3)
    assert (data.classes, data.train_size, data.test_size) == (3, 6, 3)
    assert data.example.shape == (1, 2)
    epoch = [data.train(0, 3)[step] for step in range(2)]
    seen = np.concatenate([batch["inputs"] for batch in epoch])
    assert sorted(seen[:, 0].tolist()) == X[:, 0].tolist()
    assert epoch[0]["labels"].dtype == np.int32
    assert sum(batch["weight"].sum() for batch in data.evaluate(2)) == 3


def test_wrong_arrays():
    with pytest.raises(ValueError, match="train: 6 inputs and 5 labels"):
        from_arrays((X, Y[:5]), (X, Y), classes=3)
    with pytest.raises(ValueError, match="test: labels are 0 to 1, got 0 to 2"):
        from_arrays((X, Y % 2), (X, Y), classes=2)

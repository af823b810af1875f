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


def test_lists_are_arrays():
    lists, arrays = (
        from_arrays(part, part, classes=3) for part in ((X.tolist(), Y.tolist()), (X * 1.0, Y))
    )
    assert lists.example.shape == arrays.example.shape
    for key, values in arrays.train(0, 3)[0].items():
        assert lists.train(0, 3)[0][key].tolist() == values.tolist()


def test_what_is_no_array():
    with pytest.raises(ValueError, match=r"train: inputs: .* inhomogeneous"):
        from_arrays(([[1.0], [1.0, 2.0]], [0, 1]), (X, Y), classes=3)
    with pytest.raises(ValueError, match="test: labels: expected an array of numbers, got <U3"):
        from_arrays((X, Y), (X, ["cat"] * 6), classes=3)
    with pytest.raises(ValueError, match="train: inputs: expected an array of numbers, got obj"):
        from_arrays((None, Y), (X, Y), classes=3)


def test_wrong_arrays():
    with pytest.raises(ValueError, match="train: 6 inputs and 5 labels"):
        from_arrays((X, Y[:5]), (X, Y), classes=3)
    with pytest.raises(ValueError, match="test: expected labels from 0 to 1, got 0 to 2"):
        from_arrays((X, Y % 2), (X, Y), classes=2)


def test_the_fingerprint_depends_on_every_number():
    seen = {from_arrays((X, Y), (X[:3], Y[:3]), classes=3).fingerprint for _ in range(2)}
    assert len(seen) == 1
    for part in range(4):
        held = [X.copy(), Y.copy(), X[:3].copy(), Y[:3].copy()]
        held[part].flat[0] = 2 - held[part].flat[0]
        seen.add(from_arrays(tuple(held[:2]), tuple(held[2:]), classes=3).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize("ignored", [-100, 255])
def test_a_label_that_does_not_count(ignored):
    marked = np.where(np.arange(6) < 2, ignored, Y)
    data = from_arrays((X, marked), (X, marked), classes=3, ignore_label=ignored)
    assert data.ignore_label == ignored
    assert sorted(data.train(0, 6)[0]["labels"]) == sorted(marked)
    for other in (None, 7):
        with pytest.raises(ValueError, match=r"expected labels from 0 to 2, got .*ignore_label"):
            from_arrays((X, marked), (X, Y), classes=3, ignore_label=other)

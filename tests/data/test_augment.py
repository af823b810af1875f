"""Random changes of small images, by hand."""

import numpy as np

from domino_jax.data.augment import flip, pad_crop

IMAGE = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3, 1)


class Drawn:
    """A generator that draws what it is told."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def integers(self, high, size):
        assert self.values.shape == size
        assert self.values.max() < high
        return self.values

    def random(self, size):
        assert self.values.shape == (size,)
        return self.values


def moved(top, left, pad=1):
    return pad_crop(IMAGE, Drawn([[top, left]]), pad)[0, ..., 0].tolist()


def test_a_move_by_hand():
    assert moved(1, 1) == [[1, 2, 3], [4, 5, 6]]
    assert moved(0, 1) == [[0, 0, 0], [1, 2, 3]]
    assert moved(2, 0) == [[0, 4, 5], [0, 0, 0]]
    assert moved(1, 2) == [[2, 3, 0], [5, 6, 0]]
    assert moved(0, 0, pad=0) == [[1, 2, 3], [4, 5, 6]]


def test_all_moves_come_equally_often():
    images = np.broadcast_to(IMAGE, (9000, 2, 3, 1))
    found, counts = np.unique(
        pad_crop(images, np.random.default_rng(0), 1), axis=0, return_counts=True
    )
    assert len(found) == 9
    assert counts.min() > 850
    np.testing.assert_array_equal(images[0], IMAGE[0])


def test_a_flip_by_hand():
    images = np.concatenate([IMAGE, IMAGE + 6])
    found = flip(images, Drawn([0.5, 0.49]))
    assert found is images
    assert found[..., 0].tolist() == [[[1, 2, 3], [4, 5, 6]], [[9, 8, 7], [12, 11, 10]]]

"""Resizing with antialiasing, against Pillow."""

import numpy as np
import pytest
from PIL import Image

from domino_jax.data.resample import resample

NOISE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def by_pillow(image, box, size):
    top, left, height, width = box
    edges = (left, top, left + width, top + height)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=edges)
    return np.asarray(resized)


def test_a_half_by_hand():
    # Four pixels to two: triangles of half-width 2 around 1 and 3; the edge cuts one tap off.
    row = np.array([0, 80, 160, 240], np.float64)
    first = (0.75 * row[0] + 0.75 * row[1] + 0.25 * row[2]) / 1.75
    last = (0.25 * row[1] + 0.75 * row[2] + 0.75 * row[3]) / 1.75
    image = np.broadcast_to(row[None, :, None], (4, 4, 3)).astype(np.uint8)
    made = resample(image, (0, 0, 4, 4), 2)
    assert made[0, :, 0].tolist() == [round(first), round(last)]
    assert (made == made[:1, :, :1]).all()
    down = resample(np.ascontiguousarray(image.swapaxes(0, 1)), (0, 0, 4, 4), 2)
    np.testing.assert_array_equal(down, made.swapaxes(0, 1))


def test_the_same_size_changes_nothing():
    np.testing.assert_array_equal(resample(NOISE[:64, :64], (0, 0, 64, 64), 64), NOISE[:64, :64])


@pytest.mark.parametrize("size", [1, 7, 31, 64, 200])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 90, 130),
        (10.3, 20.7, 55.5, 61.2),
        (0.0, 64.25, 41.0, 65.75),  # touches three edges
        (88.5, 0, 1.5, 3.0),
    ],
)
def test_pillows_pixels(box, size):
    made = resample(NOISE, box, size)
    assert (made.shape, made.dtype) == ((size, size, 3), np.uint8)
    difference = np.abs(made.astype(int) - by_pillow(NOISE, box, size))
    # Where an exact value lies half between two levels, Pillow's fixed-point weights decide.
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_channels_stay_apart_and_the_image_as_it_was():
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 1] = 255
    made = resample(image, (1.5, 2.5, 17.0, 25.0), 9)
    assert made.reshape(-1, 3).tolist() == [[0, 255, 0]] * 81
    assert image[..., 1].min() == 255

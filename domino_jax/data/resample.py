"""Antialiased bilinear resizing to Pillow's pixels, faster: two sparse matrix products.

Letters: H rows and W columns of an image, S those of the result.

Each new pixel is the mean of the old ones around its centre, weighted by a triangle whose
half-width is the scale (never less than one pixel), first along the columns, then along the rows,
rounded to 8 bits after each: Pillow's BILINEAR, and torchvision's on a PIL image.
"""

import math

import cv2
import numpy as np
from scipy.sparse import csr_array

# OpenCV rounds to the nearest and a half to the even one, Pillow a half up.
_UP = 1e-4


def resample(image: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Resizes a box of an image; what lies around the box smooths its edge.

    Args:
        image: uint8 [H, W, 3].
        box: top, left, height and width in pixels, not whole ones, within the image.
        size: S.

    Returns:
        uint8 [S, S, 3], the pixels of Pillow's resize of that box, up to its rounding of weights.
    """
    top, left, height, width = box
    rows, down = _span(top, height, size, image.shape[0])
    columns, across = _span(left, width, size, image.shape[1])
    narrow = _product(across, cv2.transpose(image[rows, columns]))
    return _product(down, cv2.transpose(narrow))


def _product(weights: csr_array, image: np.ndarray) -> np.ndarray:
    """Mixes the rows of an image, uint8 [H, W, 3] to [S, W, 3]."""
    h, w, channels = image.shape
    mixed = weights @ image.reshape(h, w * channels).astype(np.float32)
    return cv2.convertScaleAbs(mixed, beta=_UP).reshape(-1, w, channels)


def _span(start: float, length: float, size: int, limit: int) -> tuple[slice, csr_array]:
    """Returns which of `limit` pixels `size` new ones need, and their weights [S, pixels]."""
    scale = length / size
    reach = max(scale, 1.0)
    centers = start + (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int32), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int32), limit)
    taps = math.ceil(2 * reach) + 1
    places = first[:, None] + np.arange(taps, dtype=np.int32)
    weights = 1 - np.abs(places + 0.5 - centers[:, None]) / reach
    weights[(weights < 0) | (places >= last[:, None])] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    low, high = int(first[0]), int(last[-1])
    # Taps beyond the image weigh nothing, but are read.
    columns = np.minimum(places, high - 1) - low
    rows = np.arange(0, size * taps + 1, taps, dtype=np.int32)
    table = csr_array((weights.ravel(), columns.ravel(), rows), shape=(size, high - low))
    return slice(low, high), table

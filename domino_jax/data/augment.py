"""Random changes of whole batches of small images in memory.

Letters: G rows of a global batch, H rows and W columns of an image, C channels.
"""

import numpy as np


def pad_crop(images: np.ndarray, rng: np.random.Generator, pad: int) -> np.ndarray:
    """Moves each image by up to `pad` pixels each way and fills with 0.

    The usual augmentation of CIFAR (He et al., 2016, section 4.2): pad each side, crop at random.

    Args:
        images: [G, H, W, C].
        rng: draws two numbers an image.
        pad: pixels, at least 0.

    Returns:
        Moved images, [G, H, W, C].
    """
    rows, height, width, channels = images.shape
    # Three times as fast as np.pad for small batches.
    padded = np.zeros((rows, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    moved = np.empty_like(images)
    corners = rng.integers(2 * pad + 1, size=(len(images), 2)).tolist()
    for new, framed, (top, left) in zip(moved, padded, corners, strict=True):
        new[...] = framed[top : top + height, left : left + width]
    return moved


def flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors each image left to right with probability one half.

    Args:
        images: [G, H, W, C]; changed in place.
        rng: draws one number an image.

    Returns:
        The same array.
    """
    mirrored = rng.random(len(images)) < 0.5
    images[mirrored] = images[mirrored, :, ::-1]
    return images

"""Photographs: encoded bytes to the arrays that networks for ImageNet take.

Letters: H rows and W columns of an image, S those of the result, B rows of a batch.

Pixels are RGB, uint8 [H, W, 3], up to `normalize`. OpenCV decodes (to the same pixels as Pillow)
and resizes what is random anyway; for evaluation `resample` gives Pillow's pixels, as published
numbers were made.
"""

import contextlib
import io
import math
import re
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image

from domino_jax.core.errors import InputError
from domino_jax.data.resample import resample

Number = TypeVar("Number", int, float)

# Images of more pixels have at least a byte for every thousand: even blank ones do.
_ANY = 32_000_000
_PER_BYTE = 1000
_PNG = b"\x89PNG\r\n\x1a\n"

# Workers are the parallel ones: threads of OpenCV would only take their cores.
cv2.setNumThreads(0)

# Of the ImageNet training set, in 0 to 1.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# Its principal components, standard deviations of RGB in 0 to 1 (Krizhevsky et al., 2012, section
# 4.1; the numbers are those of fb.resnet.torch).
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)

# No turning by EXIF: neither TFDS nor torchvision does it.
_PLAIN = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_FLAGS = {
    1: _PLAIN,
    2: _PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_2,  # REDUCED_COLOR would mean BGR
    4: _PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _PLAIN | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

# Three weights smooth enough up to this ratio: 500 pixels for 224.
_SMOOTHED = 2.25


class Box(NamedTuple, Generic[Number]):
    """A part of an image, in whole or other pixels."""

    top: Number
    left: Number
    height: Number
    width: Number


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Opens an encoded image with Pillow, its pixels not decoded yet.

    Raises:
        InputError: of the block, too: it is no image that Pillow knows, or it is damaged, or a
            small file claims to be a large image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.width * image.height
            if pixels > max(_ANY, _PER_BYTE * len(data)):
                raise InputError(f"{len(data):,} bytes cannot be {pixels:,} pixels")
            yield image
    except Exception as error:  # of many types: a plug-in of Pillow reads on in damaged bytes
        raise InputError(_no_image(error)) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Reads H and W from the head of an encoded image.

    Raises:
        InputError: as `opened`.
    """
    with opened(data) as image:
        return image.height, image.width


def _no_image(error: Exception) -> str:
    """Says what is wrong with an image, without the address of its bytes."""
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"no image: {re.sub(r' <_io.BytesIO object at 0x[0-9a-f]+>', '', said)}"


def decode(data: bytes, reduction: int = 1) -> np.ndarray:
    """Decodes an image; gray, CMYK, palettes and transparency become RGB.

    Args:
        data: JPEG, PNG, or whatever OpenCV or Pillow reads.
        reduction: 1, 2, 4 or 8; of a JPEG only that part of the frequencies is decoded.

    Returns:
        uint8 [ceil(H / reduction), ceil(W / reduction), 3].

    Raises:
        InputError: it cannot be decoded.
    """
    with contextlib.suppress(cv2.error):  # which it also has for no bytes
        if _has_its_chunks(data):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[reduction])
            if pixels is not None:
                return pixels
    with opened(data) as image:
        return np.asarray(image.convert("RGB").reduce(reduction))


def _has_its_chunks(data: bytes) -> bool:
    """Says whether a PNG has all bytes that its chunks claim: OpenCV makes room for any claim."""
    place, kind = len(_PNG), b""
    if not data.startswith(_PNG):
        return True  # no PNG
    while kind != b"IEND" and place < len(data):
        kind = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4])  # length, kind and checksum too
    return place <= len(data)


def random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box[int]:
    """Draws the box of a random resized crop, as torchvision does (Szegedy et al., 2015).

    Ten tries for a share of the area and for width / height (uniform in its logarithm) that fit;
    else the largest box in the middle whose aspect is within range. Whole pixels.
    """
    shares = rng.uniform(*area, size=10)
    aspects = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), size=10))
    for share, ratio in zip(shares.tolist(), aspects.tolist(), strict=True):
        pixels = share * height * width
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    low, high = aspect
    h, w = min(height, round(width / low)), min(width, round(height * high))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def center_box(height: int, width: int, size: int, short: int) -> Box[float]:
    """Returns the box that is left of an image resized to `short` and cut to [S, S].

    The shorter side is resized to `short`, the longer one is rounded down, as torchvision does; the
    box is in pixels of the image before that, not whole ones.
    """
    shorter = min(height, width)
    h, w = short * height // shorter, short * width // shorter
    top, left = round((h - size) / 2), round((w - size) / 2)
    down, across = height / h, width / w
    return Box(top * down, left * across, size * down, size * across)


def train_image(data: bytes, rng: np.random.Generator, size: int) -> np.ndarray:
    """Decodes a random resized crop and mirrors it left to right with probability one half.

    Args:
        data: encoded image.
        rng: draws the crop and the side.
        size: S.

    Returns:
        uint8 [S, S, 3], on average within 1/255 of the same crop by Pillow, 2/255 where the crop is
        so large that it is decoded in part.

    Raises:
        InputError: it cannot be decoded.
    """
    box = random_box(*size_of(data), rng)
    reduction = _reduction(box, size)
    image = decode(data, reduction)
    if reduction > 1 or max(box.height, box.width) > _SMOOTHED * size:
        resized = _resize(image, box, reduction, size)
    else:
        part = image[box.top : box.top + box.height, box.left : box.left + box.width]
        if max(box.height, box.width) > size:
            across, down = _smoothing(box.width / size), _smoothing(box.height / size)
            part = cv2.sepFilter2D(part, -1, across, down)
        resized = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(resized, 1) if rng.random() < 0.5 else resized


def evaluation_image(data: bytes, size: int, short: int) -> np.ndarray:
    """Decodes the middle of an image whose shorter side becomes `short`.

    Args:
        data: encoded image.
        size: S, at most `short`.
        short: pixels.

    Returns:
        uint8 [S, S, 3]; the pixels of Pillow's antialiased bilinear resize and a centre crop, up to
        rounding, or 1/255 on average where the image is so large that it is decoded in part.

    Raises:
        InputError: it cannot be decoded.
    """
    box = center_box(*size_of(data), size, short)
    reduction = _reduction(box, 2 * size)
    return _resize(decode(data, reduction), box, reduction, size)


def lighting(rng: np.random.Generator, sigma: float = 0.1) -> np.ndarray:
    """Draws AlexNet's colour noise: what to add to R, G and B in 0 to 1, float32 [3].

    Source: Krizhevsky et al., 2012, section 4.1.
    """
    return (_EIGENVECTORS @ (rng.normal(0, sigma, 3) * _EIGENVALUES)).astype(np.float32)


def normalize(images: np.ndarray, light: np.ndarray | None = None) -> np.ndarray:
    """Brings pixels to zero mean and unit variance over the training set.

    Args:
        images: uint8 [B, S, S, 3].
        light: what `lighting` drew, [B, 3]; None: nothing.

    Returns:
        (images / 255 + light - MEAN) / STD, float32 [B, S, S, 3].
    """
    rows, height, width, channels = images.shape
    lights = np.zeros((rows, channels), np.float32) if light is None else light
    # Whole lines of pixels at a time: an innermost axis of 3 would take six times as long.
    gain = np.tile(1 / (255 * STD), width)
    shifts = np.tile((lights - MEAN) / STD, (1, width))
    normalized = np.empty((rows, height, width * channels), np.float32)
    for new, image, shift in zip(normalized, images, shifts, strict=True):
        np.multiply(image.reshape(height, width * channels), gain, out=new)
        np.add(new, shift, out=new)
    return normalized.reshape(images.shape)


def _reduction(box: Box[int] | Box[float], size: int) -> int:
    """Returns the largest reduction that leaves at least `size` pixels each way."""
    return max(r for r in _FLAGS if r == 1 or min(box.height, box.width) >= r * size)


def _resize(image: np.ndarray, box: Box[int] | Box[float], reduction: int, size: int) -> np.ndarray:
    """Resizes a box, given in pixels before the reduction; uint8 [S, S, 3]."""
    top, left, height, width = (side / reduction for side in box)
    return resample(image, (top, left, height, width), size)


def _smoothing(scale: float) -> np.ndarray:
    """Returns the three weights that smooth before pixels `scale` apart are interpolated.

    Of the same variance as Pillow's antialiasing, up to a scale of 2.25: its triangle of half-width
    s has s²/6, interpolation between neighbours 1/6, the weights (a, 1 - 2a, a) have 2a.
    """
    side = max(0.0, scale * scale - 1) / 12
    return np.array([side, 1 - 2 * side, side], np.float32)

"""Photographs against Pillow, and against torchvision's transforms written out with Pillow."""

import contextlib
import io
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from domino_jax.core.errors import InputError
from domino_jax.data import images
from domino_jax.data.images import Box

PHOTOS = [Image.fromarray(photo) for photo in load_sample_images().images]  # 640x427
SMALL = PHOTOS[0].resize((96, 64))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(left, right):
    assert left.shape == right.shape
    return np.abs(left.astype(int) - right).mean()


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    return encoded(image, exif=exif)


KINDS = {
    "JPEG": encoded(SMALL),
    "progressive JPEG": encoded(SMALL, progressive=True),
    "gray JPEG": encoded(SMALL.convert("L")),
    "CMYK JPEG": encoded(SMALL.convert("CMYK")),
    "turned JPEG": turned(SMALL),
    "PNG": encoded(SMALL, "PNG"),
    "PNG with alpha": encoded(SMALL.convert("RGBA"), "PNG"),
    "PNG with palette": encoded(SMALL.convert("P"), "PNG"),
    "black and white PNG": encoded(SMALL.convert("1"), "PNG"),
    "GIF": encoded(SMALL.convert("P"), "GIF"),
    "BMP": encoded(SMALL, "BMP"),
    "PCX, which OpenCV cannot read": encoded(SMALL, "PCX"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_decodes_to_pillows_rgb(kind):
    data = KINDS[kind]
    found = images.decode(data)
    assert (found.shape, found.dtype) == ((64, 96, 3), np.uint8)
    assert images.size_of(data) == (64, 96)
    assert np.abs(found.astype(int) - by_pillow(data)).max() <= (kind == "CMYK JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "gray JPEG", "PCX, which OpenCV cannot read"])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_is_as_large_as_pillows_and_about_the_same(kind, reduction):
    data = KINDS[kind]
    found = images.decode(data, reduction)
    small = Image.open(io.BytesIO(data)).convert("RGB").reduce(reduction)
    assert difference(found, np.asarray(small)) < 3
    odd = encoded(PHOTOS[0].resize((97, 65)))
    assert images.decode(odd, reduction).shape == (-(-65 // reduction), -(-97 // reduction), 3)


@pytest.mark.parametrize(
    "data", [b"", b"no image", KINDS["PNG"][:60], KINDS["PCX, which OpenCV cannot read"][:40]]
)
def test_what_is_no_image(data):
    for read in (images.size_of, images.decode):
        if read is images.size_of and len(data) > 20:
            continue  # the head is whole
        with pytest.raises(ValueError, match="no image"):
            read(data)


class Drawn:
    """A generator that draws what it is told."""

    def __init__(self, shares, aspects, corners=()):
        self.uniforms, self.corners = [shares, np.log(aspects)], list(corners)

    def uniform(self, low, high, size):
        return np.resize(self.uniforms.pop(0), size)

    def integers(self, high):
        value = self.corners.pop(0)
        assert value < high
        return value


def test_a_box_by_hand():
    # A quarter of 20x20 with width / height 4: 20 wide, 5 high.
    assert images.random_box(20, 20, Drawn([0.25], [4.0], [15, 0])) == Box(15, 0, 5, 20)
    # The first does not fit (40 wide), the second is a square of 10.
    draws = Drawn([1.0, 0.25], [4.0, 1.0], [10, 3])
    assert images.random_box(20, 20, draws) == Box(10, 3, 10, 10)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(30, 100, Box(0, 30, 30, 40)), (100, 30, Box(30, 0, 40, 30)), (30, 30, Box(0, 0, 30, 30))],
)
def test_a_box_that_never_fits_is_the_middle(height, width, box):
    assert images.random_box(height, width, Drawn([9.0], [1.0])) == box


def test_boxes_lie_inside_and_have_the_areas_and_aspects_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([images.random_box(375, 500, rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + height <= 375) & (left + width <= 500)).all()
    shares, aspects = height * width / (375 * 500), width / height
    assert 0.078 < shares.min() < 0.09
    assert 0.9 < shares.max() <= 1
    assert 0.74 < aspects.min() < 0.76
    assert 1.32 < aspects.max() < 1.345
    # The means of 20,000 boxes of torchvision 0.28's RandomResizedCrop.get_params.
    assert shares.mean() == pytest.approx(0.4348, abs=0.01)
    assert aspects.mean() == pytest.approx(1.0457, abs=0.01)


def cropped(photo, box, size):
    """Crops and resizes as torchvision does."""
    part = photo.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [32, 64, 112, 224, 300])
def test_a_random_crop_is_about_pillows(size):
    differences = []
    for seed in range(12):
        data = encoded(PHOTOS[seed % 2], quality=90)
        rng = np.random.default_rng(seed)
        box = images.random_box(427, 640, rng)
        flips = rng.random() < 0.5
        wanted = cropped(Image.fromarray(by_pillow(data)), box, size)
        found = images.train_image(data, np.random.default_rng(seed), size)
        assert (found.shape, found.dtype) == ((size, size, 3), np.uint8)
        differences.append(difference(found, wanted[:, ::-1] if flips else wanted))
    in_part = size < 150  # decoded at a half or a quarter
    assert np.mean(differences) < (2 if in_part else 1)
    assert np.max(differences) < (4 if in_part else 2)


def test_half_of_the_crops_are_mirrored(monkeypatch):
    monkeypatch.setattr(images, "random_box", lambda h, w, rng: Box(0, 0, h, w))
    ramp = np.broadcast_to(np.arange(0, 192, 2, dtype=np.uint8)[None, :, None], (64, 96, 3))
    data = encoded(Image.fromarray(np.ascontiguousarray(ramp)), "PNG")
    rng = np.random.default_rng(0)
    made = [images.train_image(data, rng, 32) for _ in range(400)]
    mirrored = sum(bool(image[0, 0, 0] > image[0, -1, 0]) for image in made)
    assert 160 < mirrored < 240


def middle(photo, size, short):
    """Resizes and crops as torchvision's Resize and CenterCrop do."""
    width, height = photo.size
    if width < height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def test_the_middle_by_hand():
    # 100x200 to 50x100, of which 40x40 from row 5 and column 30 on.
    assert images.center_box(100, 200, 40, 50) == Box(10, 60, 80, 80)
    assert images.center_box(200, 100, 40, 50) == Box(60, 10, 80, 80)
    assert images.center_box(64, 64, 64, 64) == Box(0, 0, 64, 64)


@pytest.mark.parametrize(("size", "short"), [(224, 256), (224, 224), (480, 500), (200, 400)])
@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (500, 375), (333, 500), (256, 256)])
def test_evaluation_is_pillows(size, short, shape):
    data = encoded(PHOTOS[0].resize(shape), quality=95)
    found = images.evaluation_image(data, size, short)
    assert (found.shape, found.dtype) == ((size, size, 3), np.uint8)
    wanted = middle(Image.fromarray(by_pillow(data)), size, short)
    assert difference(found, wanted) < 0.2
    # At the edges too, where the antialiasing reaches beyond the crop.
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize(
    ("size", "short"), [(96, 97), (64, 73), (56, 64), (32, 37), (24, 24), (8, 9)]
)
def test_evaluation_of_an_image_decoded_in_part_is_within_one_level(size, short):
    differences = []
    for photo in PHOTOS:
        data = encoded(photo, quality=90)
        assert images._reduction(images.center_box(427, 640, size, short), 2 * size) > 1
        wanted = middle(Image.fromarray(by_pillow(data)), size, short)
        differences.append(difference(images.evaluation_image(data, size, short), wanted))
    assert np.mean(differences) < 1


def test_normalize_by_hand():
    image = np.array([[[[0, 255, 51], [255, 0, 102]]]], np.uint8)
    found = images.normalize(image, np.array([[0.1, 0.0, -0.2]], np.float32))
    gray = [[(0 + 0.1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.2 - 0.406) / 0.225]]
    gray += [[(1 + 0.1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.4 - 0.2 - 0.406) / 0.225]]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], gray, rtol=1e-5, atol=1e-6)


def test_normalize_of_a_batch():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    light = rng.normal(size=(3, 3)).astype(np.float32)
    wanted = (batch / 255 + light[:, None, None] - images.MEAN) / images.STD
    np.testing.assert_allclose(images.normalize(batch, light), wanted, rtol=1e-4, atol=1e-5)
    wanted = (batch / 255 - images.MEAN) / images.STD
    np.testing.assert_allclose(images.normalize(batch), wanted, rtol=1e-4, atol=1e-5)


def test_lighting_by_hand():
    class One:
        def normal(self, mean, sigma, count):
            assert (mean, sigma, count) == (0, 0.1, 3)
            return np.array([1.0, 0.0, 0.0])

    # The first component is brightness, nearly the same for all colours.
    np.testing.assert_allclose(
        images.lighting(One()), 0.2175 * np.array([-0.5675, -0.5808, -0.5836]), rtol=1e-6
    )


def test_lighting_has_the_covariance_of_alexnet():
    rng = np.random.default_rng(0)
    drawn = np.array([images.lighting(rng) for _ in range(20_000)])
    assert drawn.dtype == np.float32
    values, vectors = images._EIGENVALUES, images._EIGENVECTORS
    wanted = 0.01 * vectors @ np.diag(values**2) @ vectors.T
    np.testing.assert_allclose(np.cov(drawn.T), wanted, rtol=0.05, atol=2e-6)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)


def test_opencv_has_no_threads_of_its_own():
    assert cv2.getNumThreads() <= 1


def test_a_palette_with_transparency_gives_no_warning():
    image = SMALL.convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.decode(data).shape == (64, 96, 3)


def bad_chunk():
    """Makes a PNG whose second part of the pixels has a name that is none."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    data = bytearray(encoded(Image.fromarray(noise), "PNG"))
    place = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[place : place + 4] = b"\x00\x01\x02\x03"
    return bytes(data)


def huge(side=20_000):
    """Makes the head of a PNG of 400 million pixels."""
    data = bytearray(encoded(SMALL, "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("make", [bad_chunk, huge])
def test_what_pillow_refuses_in_other_ways_is_a_value_error(make):
    with pytest.raises(ValueError, match=r"^no image: [^\n]+$"):
        images.evaluation_image(make(), 8, 9)
    with pytest.raises(ValueError, match=r"^no image: [^\n]+$"):
        images.train_image(make(), np.random.default_rng(0), 8)


def test_a_small_file_that_claims_many_pixels():
    """Pillow itself takes up to 179 million, 700 MB."""
    with pytest.raises(ValueError, match=r"^no image: [\d,]+ bytes cannot be 81,000,000 pixels$"):
        images.size_of(huge(9000))
    assert images.size_of(huge(5000)) == (5000, 5000)


def test_a_png_that_claims_more_bytes_than_it_has_is_not_given_to_opencv(monkeypatch):
    """OpenCV takes the memory that a chunk claims: 2 GB for 60 bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(buffer, "PNG")
    whole = buffer.getvalue()
    place = whole.index(b"IDAT") - 4
    claims = whole[:place] + (2**31 - 1).to_bytes(4) + whole[place + 4 :]
    for data, asked in (
        (whole, True),
        (whole + b"more", True),
        (claims, False),
        (whole[:50], False),
    ):
        calls = []
        monkeypatch.setattr(images.cv2, "imdecode", lambda *_, calls=calls: calls.append(1))
        with contextlib.suppress(InputError):
            images.decode(data)
        assert bool(calls) == asked

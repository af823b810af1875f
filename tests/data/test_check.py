"""Pictures that a run could not read are found before it, and those that it can are not."""

import io

import numpy as np
import pytest
from PIL import Image

from domino_jax import data
from domino_jax.data.check import why_broken

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def why(tmp_path):
    def why(content):
        (tmp_path / "picture.jpg").write_bytes(content)
        return why_broken(str(tmp_path / "picture.jpg"))

    return why


@pytest.mark.parametrize("kind", KINDS)
def test_whole_pictures_pass(why, kind):
    assert why(encoded(kind)) == ""


@pytest.mark.parametrize(
    "content",
    [
        encoded("JPEG", progressive=True),
        encoded("JPEG", exif=b"Exif\0\0" + bytes(60_000)),
        encoded("JPEG", icc_profile=bytes(200_000)),  # a head larger than what is looked at
        encoded("JPEG") + bytes(20),
        encoded("JPEG") + bytes(1000),
        encoded("JPEG") + b"a trailer of the camera" * 9,
        encoded("PNG") + bytes(9),
    ],
)
def test_unusual_pictures_that_can_be_read_pass(why, content):
    assert why(content) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "no image"),
        (bytes(2000), "no image"),
        (b"\xff\xd8", "no image"),
        (b"\xff\xd8" + bytes(5000) + b"\xff\xd9", "no image"),
        (encoded("JPEG")[:100] + b"\xff\xd9", "no image"),
        (encoded("JPEG")[: len(encoded("JPEG")) // 2], "truncated"),
    ],
)
def test_broken_pictures_say_why(why, content, message):
    assert message in why(content)
    assert "0x" not in why(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_truncated_pictures_of_any_kind_are_seen(why, kind, share):
    whole = encoded(kind)
    assert why(whole[: int(share * len(whole))]) != ""


def test_a_damaged_middle_of_a_png_is_seen(why):
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 0xFF
    assert why(bytes(content)) != ""


def test_every_broken_file_of_a_folder_is_named_with_its_split(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(300):
                path = tmp_path / split / name / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded("PNG") if number else b"")
    (tmp_path / "train" / "cat" / "gone.png").symlink_to("nowhere.png")
    told = []
    made = data.create("folder", data_dir=str(tmp_path), size=8)
    found = made.check(lambda done, of: told.append((done, of)))
    assert [broken.name for broken in found] == [
        *("train/cat/000.png", "train/cat/gone.png", "train/dog/000.png"),
        *("test/cat/000.png", "test/dog/000.png"),
    ]
    assert {broken.why for broken in found} == {"the file is empty", "a link to nothing"}
    assert found[-1].path == str(tmp_path / "val" / "dog" / "000.png")
    assert told[-1] == (1201, 1201)
    assert len(told) > 3


def test_data_that_are_no_files_have_nothing_to_check():
    made = data.create("digits")
    assert made.check is None
    assert made.files() == {}

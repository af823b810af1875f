"""A folder of one's own images."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from domino_jax import data
from domino_jax.data import images
from domino_jax.data.sets.folder import _Files

COLORS = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cat": (10, 10, 250)}


def put(path, color, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def root(tmp_path):
    for name, color in COLORS.items():
        put(tmp_path / "train" / name / "1.png", color)
        put(tmp_path / "train" / name / "deeper" / "2.BMP", color)
        put(tmp_path / "test" / name / "1.gif", color, (40, 90))
    return tmp_path


def create(root, **options):
    return data.create("folder", data_dir=str(root), size=8, **options)


def color_of(inputs):
    """Which of red, green and blue an image mostly is."""
    return (inputs * images.STD + images.MEAN).mean((1, 2)).argmax(1)


def test_labels_are_the_sorted_folders(root):
    made = create(root)
    assert (made.train_size, made.test_size, made.classes) == (6, 3, 3)
    assert made.example.shape == (1, 8, 8, 3)
    batch = made.train(0, 6)[0]
    assert sorted(batch["labels"]) == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(color_of(batch["inputs"]), batch["labels"])
    (batch,) = made.evaluate(3)
    assert batch["labels"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(color_of(batch["inputs"]), batch["labels"])
    pixels = (batch["inputs"] * images.STD + images.MEAN) * 255
    np.testing.assert_allclose(pixels[0, 3, 3], COLORS["ant"], atol=0.01)


def test_the_spec_agrees(root):
    made, spec = create(root), data.spec("folder", data_dir=str(root), size=8)
    assert spec.example == made.example
    assert (spec.classes, spec.train_size, spec.test_size) == (3, 6, 3)


def test_other_files_are_passed_over(root):
    (root / "train" / "notes.txt").write_text("mine")
    (root / "train" / "ant" / "notes.txt").write_text("mine")
    (root / "train" / "ant" / ".hidden.png").write_text("mine")
    (root / "train" / ".cache").mkdir()
    put(root / "train" / "ant" / ".thumbs" / "1.png", COLORS["bee"])
    for name in ("notes.pdf", "film.mpg", "table.h5"):  # of which Pillow knows the extension
        (root / "train" / "ant" / name).write_text("mine")
    assert (create(root).train_size, create(root).classes) == (6, 3)


def test_links_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere / "9.png", COLORS["ant"])
    (root / "train" / "ant" / "more").symlink_to(elsewhere)
    assert create(root).train_size == 7


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_folder(root, name):
    (root / "test").rename(root / name)
    assert create(root).test_size == 3


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_beside_test_is_left_alone(root, name):
    before = create(root).fingerprint
    (root / name / "unknown").mkdir(parents=True)
    (root / name / "unknown" / "1.png").write_bytes(b"")
    made = create(root)
    assert (made.test_size, made.fingerprint) == (3, before)
    assert made.check(lambda done, of: None) == []


def test_a_class_without_test_images_is_allowed(root):
    (root / "test" / "bee" / "1.gif").unlink()
    (root / "test" / "bee").rmdir()
    assert [batch["labels"].tolist() for batch in create(root).evaluate(2)] == [[0, 2]]


def test_evaluation_resizes_to_eight_sevenths(root):
    # A ramp of one level a pixel: the middle 224 of 256.
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    for name in COLORS:
        (root / "test" / name / "1.gif").unlink()
    Image.fromarray(np.ascontiguousarray(ramp)).save(root / "test" / "ant" / "1.png")
    (batch,) = data.create("folder", data_dir=str(root)).evaluate(1)
    rows = (batch["inputs"][0] * images.STD + images.MEAN)[:, 0, 0] * 255
    np.testing.assert_allclose(rows, np.arange(16, 240), atol=0.01)


def test_a_broken_file_is_named(root):
    (root / "train" / "ant" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"ant/1\.png: no image") as caught:
        create(root).train(0, 6)[0]
    assert "0x" not in str(caught.value)


def test_a_missing_folder(tmp_path):
    for folder in ("", str(tmp_path / "nowhere")):
        with pytest.raises(
            ValueError, match=r"set data\.dir to a folder with train/ and test/"
        ) as e:
            data.create("folder", data_dir=folder)
        assert repr(folder) in str(e.value)


def test_missing_and_empty_parts(root):
    (root / "test").rename(root / "tests")
    with pytest.raises(ValueError, match=r"expected test/, or else one of val/, .*, got none"):
        create(root)
    for name in ("val", "valid"):
        (root / name).mkdir()
    with pytest.raises(ValueError, match=r"or else one of val/, .*, got val/, valid/"):
        create(root)
    (root / "test" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test: no images in the folders of its classes"):
        create(root)
    (root / "test" / "ant").rename(root / "test" / "ants")
    with pytest.raises(ValueError, match=r"test/ants: no such class in .*train: ant, bee, cat"):
        create(root)
    shutil.rmtree(root / "train" / "bee")
    shutil.rmtree(root / "train" / "cat")
    with pytest.raises(ValueError, match=r"train: a folder for each of two or more .*, got ant"):
        create(root)
    (root / "train").rename(root / "trains")
    with pytest.raises(ValueError, match=r"train: no such folder"):
        create(root)


def test_a_camera_image_is_decoded(root):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).convert("CMYK").save(buffer, "JPEG")
    (root / "test" / "ant" / "1.JPG").write_bytes(buffer.getvalue())
    assert next(iter(create(root).evaluate(1)))["inputs"].shape == (1, 8, 8, 3)


def test_a_hidden_folder_above_is_no_matter(root, tmp_path_factory):
    hidden = tmp_path_factory.mktemp("data") / ".data"
    root.rename(hidden)
    assert create(hidden).train_size == 6


def test_an_empty_class_is_refused(root):
    (root / "train" / "dog").mkdir()
    for ask in (data.create, data.spec):
        with pytest.raises(ValueError, match=r"train/dog: a class without images; add some or"):
            ask("folder", data_dir=str(root), size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "8"}, "size: expected a whole number of at least 1, got '8'"),
        ({"size": 8, "short": 7}, "short: expected a whole number of at least 8, got 7"),
        ({"size": 8, "short": False}, "short: expected a whole number of at least 0, got False"),
    ],
)
@pytest.mark.parametrize("ask", [data.create, data.spec])
def test_options_out_of_range(root, ask, options, message):
    with pytest.raises(ValueError, match=message):
        ask("folder", data_dir=str(root), **options)


def test_the_fingerprint_depends_on_classes_names_and_sizes(root, tmp_path_factory):
    seen = [create(root).fingerprint]
    moved = tmp_path_factory.mktemp("data") / "moved"
    root.rename(moved)
    (moved / "test").rename(moved / "val")
    assert create(moved).fingerprint == seen[0]
    image = moved / "train" / "ant" / "1.png"
    image.rename(image.with_name("3.png"))
    seen.append(create(moved).fingerprint)
    put(image.with_name("3.png"), COLORS["ant"], (90, 90))
    seen.append(create(moved).fingerprint)
    put(moved / "val" / "bee" / "2.png", COLORS["bee"])
    seen.append(create(moved).fingerprint)
    (moved / "train" / "cat").rename(moved / "train" / "dog")
    (moved / "val" / "cat").rename(moved / "val" / "dog")
    seen.append(create(moved).fingerprint)
    assert len(set(seen)) == 5


def test_a_picture_that_vanished_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file or directory"):
        _Files([str(tmp_path / "gone.png")], [0])[0]

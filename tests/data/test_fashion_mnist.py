"""Fashion-MNIST from IDX files, tiny ones that the test writes, and from TFDS."""

import gzip
import io
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from domino_jax import data
from domino_jax.data.sets import fashion_mnist

KINDS = {"images": "idx3", "labels": "idx1"}
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28)).astype(np.uint8)
LABELS = np.arange(7, dtype=np.uint8) * 7 % 10


def idx(values):
    axes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes((0, 0, 8, values.ndim)) + axes + values.tobytes()


def put(folder, part, kind, content):
    (folder / f"{part}-{kind}-{KINDS[kind]}-ubyte.gz").write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    for part, size in (("train", 7), ("t10k", 3)):
        for kind, values in (("images", IMAGES), ("labels", LABELS)):
            put(folder, part, kind, gzip.compress(idx(values[:size])))
    return folder


def create(folder, **options):
    options = {"data_dir": str(folder / "no_tfds"), "idx": str(folder)} | options
    return data.create("fashion_mnist", **options)


def test_images_and_labels_are_those_of_the_files(folder):
    made = create(folder, augment=False)
    assert (made.train_size, made.test_size, made.classes) == (7, 3, 10)
    (batch,) = made.evaluate(3)
    assert batch["labels"].dtype == np.int32
    assert batch["labels"].tolist() == LABELS[:3].tolist()
    pixels = batch["inputs"] * fashion_mnist._STD + fashion_mnist._MEAN
    assert batch["inputs"].dtype == np.float32
    np.testing.assert_array_equal(np.rint(pixels[..., 0] * 255), IMAGES[:3])
    seen = made.train(0, 7)[0]
    assert sorted(seen["labels"]) == sorted(LABELS)
    assert seen["inputs"].shape == (7, *made.example.shape[1:])


def prepare(data_dir):
    """Writes what TFDS's own builder would, of our images, last first."""
    parent = type(tfds.builder("fashion_mnist", data_dir=str(data_dir)))

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self):
            """Looks nothing up."""

    class Small(parent, skip_registration=True):
        pkg_dir_path = None

        def _info(self):
            return Info(builder=self, features=super()._info().features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._examples(7), "test": self._examples(3)}

        def _examples(self, size):
            for place in reversed(range(size)):
                buffer = io.BytesIO()
                Image.fromarray(IMAGES[place]).save(buffer, "PNG")
                yield size - place, {"image": buffer.getvalue(), "label": int(LABELS[place])}

    Small.name = "fashion_mnist"
    Small.__module__ = parent.__module__
    Small(data_dir=str(data_dir)).download_and_prepare(file_format="array_record")


@pytest.mark.filterwarnings("ignore")
def test_what_tfds_has_prepared_comes_first(folder, tmp_path):
    prepare(tmp_path / "tfds")
    made = create(folder, data_dir=str(tmp_path / "tfds"), augment=False)
    (batch,) = made.evaluate(3)
    assert batch["labels"].tolist() == LABELS[2::-1].tolist()
    pixels = batch["inputs"] * fashion_mnist._STD + fashion_mnist._MEAN
    np.testing.assert_array_equal(np.rint(pixels[..., 0] * 255), IMAGES[2::-1])
    assert made.fingerprint != create(folder).fingerprint
    for path in (tmp_path / "tfds").rglob("*train*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"lacks .*train.*; or, without TensorFlow: apt-get"):
        create(folder, data_dir=str(tmp_path / "tfds"))


def test_augmentation_moves_and_mirrors_training_images_alone(folder):
    made, plain = create(folder), create(folder, augment=False)
    one, other = made.train(0, 7)[0], plain.train(0, 7)[0]
    np.testing.assert_array_equal(one["labels"], other["labels"])
    assert np.any(one["inputs"] != other["inputs"])
    for a, b in zip(made.evaluate(3), plain.evaluate(3), strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])


def test_the_fingerprint_depends_on_pixels_and_labels(folder):
    seen = [create(folder).fingerprint]
    for part, kind, values in (("train", "images", IMAGES), ("t10k", "labels", LABELS[:3])):
        changed = values.copy()
        changed[0] ^= 1
        put(folder, part, kind, gzip.compress(idx(changed)))
        seen.append(create(folder).fingerprint)
    assert len(set(seen)) == 3


def test_the_missing_data_message_names_both_sources(tmp_path):
    with pytest.raises(ValueError, match=r"is not prepared in .*download_and_prepare") as caught:
        create(tmp_path, idx=str(tmp_path / "nowhere"))
    assert "apt-get install dataset-fashion-mnist" in str(caught.value)
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)


WHOLE = gzip.compress(idx(IMAGES))


@pytest.mark.parametrize(
    ("part", "kind", "content", "message"),
    [
        ("train", "images", b"", "got nothing"),
        ("train", "images", WHOLE[: len(WHOLE) // 2], r"truncated or damaged \(.*; reinstall"),
        ("train", "images", WHOLE[:200] + b"xyz" + WHOLE[203:], "damaged|cannot be read"),
        ("train", "images", idx(IMAGES), "cannot be read .*gzip"),
        ("t10k", "images", gzip.compress(idx(IMAGES)[:-5]), r"7 x 28 x 28; it has 5483; rein"),
        ("t10k", "images", gzip.compress(idx(IMAGES)[:9]), "3 axes, .*got 00 00 08 03"),
        ("t10k", "images", gzip.compress(idx(LABELS)), "starts with 00 00 08 03, got 00 00 08 01"),
        (
            "t10k",
            "images",
            gzip.compress(idx(IMAGES[:3, :9])),
            r"expected images of 28x28, got \(9, 28\)",
        ),
        ("train", "labels", gzip.compress(idx(LABELS[:5])), "of the 7 images of .* got 5"),
        ("train", "labels", gzip.compress(idx(LABELS + 90)), "labels are 0 to 9, got 98"),
    ],
    ids=range(10),  # what is compressed holds the time
)
def test_damaged_files_are_named_in_one_line(folder, part, kind, content, message):
    put(folder, part, kind, content)
    with pytest.raises(ValueError, match=message) as caught:
        create(folder)
    assert f"{part}-{kind}-{KINDS[kind]}-ubyte.gz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read \(No such"):
        create(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": 1}, "augment: expected True or False, got 1"),
        ({"idx": None}, "idx: expected a folder, got None"),
    ],
)
@pytest.mark.parametrize("ask", [data.create, data.spec])
def test_options_of_the_wrong_kind(folder, ask, options, message):
    with pytest.raises(ValueError, match=message):
        ask("fashion_mnist", data_dir=str(folder), **options)

"""CIFAR from files with the real builders' features, and from the mock of TFDS."""

import io
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from domino_jax import data
from domino_jax.data import prepared
from domino_jax.data.sets import cifar

SIZES = {"train": 12, "test": 5}


def image_of(split, place):
    """Random pixels, none of them 0."""
    rng = np.random.default_rng([place, len(split)])
    return rng.integers(1, 256, (32, 32, 3)).astype(np.uint8)


def label_of(place, classes):
    return (place * 7) % classes


class Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self):
        """Looks nothing up."""


def real(name, classes):
    """Makes the real builder of a name, with small images of our own in place of a download."""
    parent = type(tfds.builder(name, data_dir=tempfile.gettempdir()))

    class Small(parent, skip_registration=True):
        pkg_dir_path = None

        def _info(self):
            info = super()._info()
            return Info(builder=self, features=info.features)

        def _split_generators(self, dl_manager):
            return {split: self._examples(split, size) for split, size in SIZES.items()}

        def _examples(self, split, size):
            for place in range(size):
                buffer = io.BytesIO()
                Image.fromarray(image_of(split, place)).save(buffer, "PNG")
                label = label_of(place, classes)
                example = {"id": f"{split}_{place}", "image": buffer.getvalue(), "label": label}
                coarse = {"coarse_label": 0} if classes == 100 else {}
                yield place, example | coarse

    Small.name = name
    Small.__module__ = parent.__module__
    return Small


@pytest.fixture(scope="module", params=[10, 100])
def made(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)  # TFDS leaves a folder there
        name = f"cifar{request.param}"
        prepared.prepare_own(real(name, request.param), folder)
    return request.param, folder, data.create(name, data_dir=folder, augment=False)


def pixels(inputs, classes):
    mean, std = np.array(cifar._MOMENTS[f"cifar{classes}"])
    return np.rint((inputs * std + mean) * 255).astype(int)


def test_sizes_shapes_and_types(made):
    classes, _, opened = made
    assert (opened.train_size, opened.test_size, opened.classes) == (12, 5, classes)
    for batch in (opened.train(0, 4)[0], next(iter(opened.evaluate(4)))):
        assert (batch["inputs"].shape, batch["inputs"].dtype) == ((4, 32, 32, 3), np.float32)
        assert (batch["labels"].shape, batch["labels"].dtype) == ((4,), np.int32)
    assert opened.workers == 0
    assert opened.fingerprint.startswith(f"cifar{classes}/3.")
    spec = data.spec(f"cifar{classes}")
    assert (spec.example, spec.classes) == (opened.example, classes)
    assert (spec.train_size, spec.test_size) == (50_000, 10_000)


def test_images_and_labels_are_those_of_the_files(made):
    classes, _, opened = made
    for split, batch in (("train", opened.train(0, 12)[0]), ("test", *opened.evaluate(5))):
        found = {
            image.tobytes(): label
            for image, label in zip(pixels(batch["inputs"], classes), batch["labels"], strict=True)
        }
        wanted = {
            image_of(split, k).astype(int).tobytes(): label_of(k, classes)
            for k in range(SIZES[split])
        }
        assert found == wanted


def test_normalization_by_hand(made):
    classes, _, opened = made
    (batch,) = opened.evaluate(5)
    mean, std = np.array(cifar._MOMENTS[f"cifar{classes}"])
    assert any(
        np.allclose(batch["inputs"][0], (image_of("test", k) / 255 - mean) / std, atol=1e-5)
        for k in range(5)
    )


def test_augmentation_moves_by_four_pixels_and_mirrors(made):
    classes, folder, plain = made
    moved = data.create(f"cifar{classes}", data_dir=folder)
    seen = set()
    for step in range(8):
        shifted, straight = (
            pixels(s.train(0, 12)[step]["inputs"], classes) for s in (moved, plain)
        )
        np.testing.assert_array_equal(
            moved.train(0, 12)[step]["labels"], plain.train(0, 12)[step]["labels"]
        )
        for one, other in zip(shifted, straight, strict=True):
            framed = np.pad(other, ((4, 4), (4, 4), (0, 0)))
            matching = [
                (top, left, turn)
                for top in range(9)
                for left in range(9)
                for turn in (1, -1)
                if (framed[top : top + 32, left : left + 32][:, ::turn] == one).all()
            ]
            assert len(matching) == 1
            seen.update(matching)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {turn for _, _, turn in seen} == {1, -1}


def test_mock_data(made):
    classes, folder, _ = made
    with tfds.testing.mock_data(num_examples=6, data_dir=folder):
        opened = data.create(f"cifar{classes}", data_dir="elsewhere")
        assert (opened.train_size, opened.test_size) == (6, 6)
        assert opened.train(0, 3)[1]["inputs"].shape == (3, 32, 32, 3)
        assert sum(batch["weight"].sum() for batch in opened.evaluate(4)) == 6


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_set_names_the_command(name, tmp_path):
    with pytest.raises(ValueError, match=rf"'{name}' is not prepared in .*python -c .*'{name}:3"):
        data.create(name, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits"])
@pytest.mark.parametrize("ask", [data.create, data.spec])
def test_augment_is_no_text(name, ask, tmp_path):
    with pytest.raises(ValueError, match="augment: expected True or False, got 'no'"):
        ask(name, data_dir=str(tmp_path), augment="no")

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

import domino_jax
from domino_jax import data
from domino_jax.data import prepared
from domino_jax.data.sets import digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder where the digits have been prepared."""
    folder = tmp_path_factory.mktemp("data")
    data.create("digits", data_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return data.create("digits", data_dir=str(folder))


@pytest.fixture(scope="module")
def plain(folder):
    return data.create("digits", data_dir=str(folder), augment=False)


def gray(inputs):
    """Undoes the scaling."""
    return np.rint(inputs * digits._STD + digits._MEAN).astype(int)


def test_sizes_shapes_and_types(made):
    assert (made.train_size, made.test_size, made.classes, made.workers) == (1437, 360, 10, 0)
    assert made.example.shape == (1, 8, 8, 1)
    assert made.example.dtype == np.float32
    for batch in (made.train(0, 32)[0], next(iter(made.evaluate(32)))):
        assert batch["inputs"].shape == (32, 8, 8, 1)
        assert batch["inputs"].dtype == np.float32
        assert batch["labels"].shape == (32,)
        assert batch["labels"].dtype == np.int32


def test_the_test_set_is_the_last_360_of_scikit_learn(made):
    bundle = load_digits()
    batches = list(made.evaluate(100))
    kept = np.concatenate([batch["weight"] for batch in batches]) == 1
    images = np.concatenate([batch["inputs"] for batch in batches])[kept]
    labels = np.concatenate([batch["labels"] for batch in batches])[kept]
    np.testing.assert_array_equal(gray(images[..., 0]), bundle.images[-360:])
    np.testing.assert_array_equal(labels, bundle.target[-360:])
    assert np.bincount(labels).tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]


def test_an_epoch_without_augmentation_is_the_first_1437_of_scikit_learn(plain):
    bundle = load_digits()
    batches = plain.train(5, 479)
    images = np.concatenate([batches[step]["inputs"] for step in range(3)])
    labels = np.concatenate([batches[step]["labels"] for step in range(3)])

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(1437, 64), labels]).astype(int)))

    assert rows(gray(images), labels) == rows(bundle.images[:1437], bundle.target[:1437])


def test_inputs_have_about_zero_mean_and_unit_variance(plain):
    inputs = plain.train(0, 1437)[0]["inputs"]
    assert abs(inputs.mean()) < 0.01
    assert abs(inputs.std() - 1) < 0.01


def test_augmentation_shifts_by_up_to_one_pixel(made, plain):
    shifted, straight = made.train(0, 200)[3], plain.train(0, 200)[3]
    np.testing.assert_array_equal(shifted["labels"], straight["labels"])
    moves = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    found = set()
    for one, other in zip(gray(shifted["inputs"]), gray(straight["inputs"]), strict=True):
        framed = np.pad(other, ((1, 1), (1, 1), (0, 0)))
        matching = [m for m in moves if (framed[1 - m[0] :, 1 - m[1] :][:8, :8] == one).all()]
        assert matching
        found.update(matching[:1])
    assert found == set(moves)


@pytest.mark.parametrize("batch", [0, 1438])
def test_a_batch_out_of_range(made, batch):
    with pytest.raises(ValueError, match=str(batch)):
        made.train(0, batch)


def test_the_files_are_array_record(folder):
    files = sorted(path.name for path in (folder / "digits" / "1.0.0").iterdir())
    assert files == [
        "dataset_info.json",
        "digits-test.array_record-00000-of-00001",
        "digits-train.array_record-00000-of-00001",
        "features.json",
    ]


def test_a_second_create_prepares_nothing(folder, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("prepared again")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", forbidden)
    assert data.create("digits", data_dir=str(folder)).train_size == 1437


SCRIPT = """
import sys
def guard(event, arguments):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):
        raise SystemExit(f'network: {event} {arguments}')
sys.addaudithook(guard)
import domino_jax.data
made = domino_jax.data.create('digits')
running = domino_jax.data.stream(made.train(0, 64))
next(running)
assert sum(batch['weight'].sum() for batch in made.evaluate(64)) == 360
assert not [name for name in sys.modules if name.split('.')[0] == 'tensorflow']
"""


def test_two_processes_prepare_together_in_silence_offline_without_tensorflow(tmp_path):
    folder, temporary = tmp_path / "data", tmp_path / "tmp"
    temporary.mkdir()
    place = {
        "TFDS_DATA_DIR": str(folder),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(Path(domino_jax.__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **place},
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in (folder / "digits").iterdir()] == ["1.0.0"]
    assert list(temporary.iterdir()) == []


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Three numbers; `meanwhile` is called in the middle of the preparation."""

    VERSION = tfds.core.Version("1.0.0")
    meanwhile = None

    def _info(self):
        features = tfds.features.FeaturesDict({"x": np.int32})
        return prepared.LocalInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        if Tiny.meanwhile is not None:
            Tiny.meanwhile()
        yield from ((k, {"x": k}) for k in range(3))


def test_the_slower_of_two_reads_what_the_faster_wrote(tmp_path, monkeypatch, capfd):
    def faster():
        monkeypatch.setattr(Tiny, "meanwhile", None)
        prepared.prepare_own(Tiny, str(tmp_path))

    monkeypatch.setattr(Tiny, "meanwhile", faster)
    builder = prepared.prepare_own(Tiny, str(tmp_path))
    assert sorted(int(example["x"]) for example in builder.as_data_source("train")) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["1.0.0"]
    assert capfd.readouterr() == ("", "")


def test_a_failed_preparation_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    def full():
        raise OSError("disk full")

    monkeypatch.setattr(Tiny, "meanwhile", full)
    with pytest.raises(ValueError, match=r"cannot prepare 'tiny' in .*disk full"):
        prepared.prepare_own(Tiny, str(tmp_path))
    monkeypatch.setattr(Tiny, "meanwhile", None)
    assert prepared.prepare_own(Tiny, str(tmp_path)).info.splits["train"].num_examples == 3


def test_what_a_killed_preparation_left_goes_once_nobody_writes_it(tmp_path):
    place = Path(Tiny(data_dir=str(tmp_path)).data_dir)
    left = [place.parent / f"incomplete.{name}_{place.name}" for name in ("ABCDEF", "GHIJKL")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"half")
    before = time.time() - 7200
    for path in (left[0], left[0] / "part"):
        os.utime(path, (before, before))
    prepared.prepare_own(Tiny, str(tmp_path))
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name, left[1].name]


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "tiny" / "1.0.0").mkdir(parents=True)
    (tmp_path / "tiny" / "1.0.0" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot prepare 'tiny'.*holds something else; remove it"):
        prepared.prepare_own(Tiny, str(tmp_path))


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(ValueError, match="cannot prepare 'tiny' in"):
        prepared.prepare_own(Tiny, str(tmp_path / "data"))


def test_another_format_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="holds tfrecord instead of array_record; remove it"):
        prepared.prepare_own(digits.Digits, str(tmp_path))
    with pytest.raises(
        ValueError, match=r"'digits' is prepared as tfrecord instead of .*python -c"
    ):
        prepared.require_prepared(digits.Digits(data_dir=str(tmp_path)))


def test_a_prepared_set_passes(folder):
    prepared.require_prepared(digits.Digits(data_dir=str(folder)))


def test_a_missing_stock_set_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # TFDS leaves a folder there
    with pytest.raises(ValueError) as caught:
        prepared.require_prepared(tfds.builder("cifar10", data_dir=str(tmp_path)))
    assert str(caught.value) == (
        f"data set 'cifar10' is not prepared in {tmp_path}; run once, where tensorflow-cpu is "
        'installed: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('cifar10:3.0.2', data_dir='{tmp_path}')"
        ".download_and_prepare(file_format='array_record')\""
    )

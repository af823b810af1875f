"""ImageNet from files that the real builder of TFDS wrote, and from its mock.

tests/data/tfds/make_archives.py makes the archives; its text has the command that prepared them.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import domino_jax
from domino_jax import data
from domino_jax.data import images

FOLDER = Path(__file__).parents[1] / "data" / "tfds"
LABELS = {"n01440764": 0, "n01443537": 1, "n02129165": 291, "n15075141": 999}


@pytest.fixture(scope="module")
def made():
    return data.create("imagenet2012", data_dir=str(FOLDER))


@pytest.fixture(scope="module")
def records():
    """The examples of both splits, decoded by Pillow through TFDS's raw bytes."""
    builder = tfds.builder("imagenet2012", data_dir=FOLDER)
    raw = {"image": tfds.decode.SkipDecoding()}
    return {
        split: list(builder.as_data_source(split, decoders=raw)) for split in builder.info.splits
    }


def middle(encoded):
    """The paper's evaluation transform, by Pillow."""
    photo = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = photo.size
    if width < height:
        width, height = 256, int(256 * height / width)
    else:
        width, height = int(256 * width / height), 256
    photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2.0), round((height - 224) / 2.0)
    pixels = np.asarray(photo.crop((left, top, left + 224, top + 224)), np.float64) / 255
    return (pixels - images.MEAN) / images.STD


def test_sizes_shapes_and_types(made):
    assert (made.train_size, made.test_size, made.classes, made.workers) == (12, 6, 1000, 0)
    assert made.example.shape == (1, 224, 224, 3)
    for batch in (made.train(0, 4)[0], next(iter(made.evaluate(4)))):
        assert (batch["inputs"].shape, batch["inputs"].dtype) == ((4, 224, 224, 3), np.float32)
        assert (batch["labels"].shape, batch["labels"].dtype) == ((4,), np.int32)
    assert made.fingerprint == "imagenet2012/5.1.0"
    assert set(made.train(0, 4)[0]) == {"inputs", "labels"}


def test_the_spec_is_that_of_the_whole_set(made, tmp_path):
    spec = data.spec("imagenet2012", data_dir=str(tmp_path))
    assert (spec.train_size, spec.test_size, spec.classes) == (1_281_167, 50_000, 1000)
    assert spec.example == made.example
    assert data.spec("imagenet2012", size=64).example.shape == (1, 64, 64, 3)


def test_labels_are_those_of_the_archives(made, records):
    names = [record["file_name"].decode() for record in records["train"]]
    wanted = [LABELS[name.partition("_")[0]] for name in names]
    assert sorted(wanted) == [0] * 3 + [1] * 3 + [291] * 3 + [999] * 3
    assert sorted(made.train(0, 12)[0]["labels"]) == sorted(wanted)
    # The first six of the builder's validation_labels.txt, by file name.
    by_name = {record["file_name"].decode(): record["label"] for record in records["validation"]}
    assert [by_name[name] for name in sorted(by_name)] == [65, 970, 230, 809, 516, 57]
    found = np.concatenate([batch["labels"] for batch in made.evaluate(3)])
    assert found.tolist() == [record["label"] for record in records["validation"]]


def test_evaluation_is_within_a_255th_of_pillow_on_average(made, records):
    batches = list(made.evaluate(4))
    inputs = np.concatenate([batch["inputs"] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert weight.tolist() == [1] * 6 + [0] * 2
    for found, record in zip(inputs, records["validation"], strict=False):
        difference = np.abs(found - middle(record["image"])) * images.STD
        assert difference.mean() < 0.2 / 255


def test_training_crops_mirrors_and_lights(monkeypatch, records):
    """With the whole image as the crop and a given light it is Pillow's resize, or its mirror."""
    monkeypatch.setattr(images, "random_box", lambda h, w, rng: images.Box(0, 0, h, w))
    light = np.float32([0.1, -0.2, 0.3])
    monkeypatch.setattr("domino_jax.data.encoded.lighting", lambda rng: light)
    batch = data.create("imagenet2012", data_dir=str(FOLDER)).train(0, 12)[0]
    wholes = []
    for record in records["train"]:
        photo = Image.open(io.BytesIO(record["image"])).convert("RGB")
        pixels = np.asarray(photo.resize((224, 224), Image.Resampling.BILINEAR), np.float64) / 255
        wholes.append((pixels + light - images.MEAN) / images.STD)
    mirrored = 0
    for found, label in zip(batch["inputs"], batch["labels"], strict=True):
        both = [
            (np.abs(found - side).mean(), record["label"], turn)
            for record, whole in zip(records["train"], wholes, strict=True)
            for turn, side in enumerate((whole, whole[:, ::-1]))
        ]
        difference, wanted, turn = min(both)
        assert difference < 0.02
        assert wanted == label
        mirrored += turn
    assert 0 < mirrored < 12


def test_a_gray_photograph_is_there():
    builder = tfds.builder("imagenet2012", data_dir=FOLDER)
    raw = {"image": tfds.decode.SkipDecoding()}
    modes = [
        Image.open(io.BytesIO(record["image"])).mode
        for record in builder.as_data_source("train", decoders=raw)
    ]
    assert sorted(modes) == ["L"] + ["RGB"] * 11


def same(left, right):
    for key in ("inputs", "labels"):
        np.testing.assert_array_equal(left[key], right[key])


def test_a_step_is_a_function_of_seed_and_step_for_any_number_of_processes(made):
    again = data.create("imagenet2012", data_dir=str(FOLDER))
    batches = made.train(3, 4)
    same(batches[7], again.train(3, 4)[7])
    assert (batches[7]["inputs"] != made.train(4, 4)[7]["inputs"]).any()
    for process in range(2):
        part = again.train(3, 4, process_index=process, process_count=2)[7]
        same(part, {key: value[process::2] for key, value in batches[7].items()})


WORKERS = """
import sys
import numpy as np
from domino_jax import data

if __name__ == '__main__':
    made = data.create('imagenet2012', data_dir=sys.argv[1], workers=2, size=32, short=36)
    batches = made.train(0, 5)
    running = data.stream(batches, 2, workers=made.workers)
    for step in (2, 3, 4):
        np.testing.assert_array_equal(next(running)['inputs'], batches[step]['inputs'])
    running.close()
    here = data.create('imagenet2012', data_dir=sys.argv[1], size=32, short=36)
    for one, other in zip(made.evaluate(4), here.evaluate(4), strict=True):
        for key in ('inputs', 'labels', 'weight'):
            np.testing.assert_array_equal(one[key], other[key])
    assert not [name for name in sys.modules if name.split('.')[0] == 'tensorflow']
    for batch in made.evaluate(2):  # read to its end right before the program's
        pass
    print('same')
"""


def test_workers_give_the_same_batches_without_tensorflow(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        # Not -W error: Python's resource tracker would swallow its warning of leaked memory.
        [sys.executable, str(script), str(FOLDER)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(domino_jax.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", "")


def png(shape):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mocked(*encoded):
    """Examples as the mock of TFDS takes them in place of its own, which are not encoded."""
    return tfds.testing.mock_data(
        data_dir=str(FOLDER),
        as_data_source_fn=lambda self, split, decoders: [
            {"file_name": f"{split}_{k}.JPEG", "image": image, "label": k}
            for k, image in enumerate(encoded)
        ],
    )


def test_mock_data():
    with mocked(png((40, 50)), png((8, 300)), png((1, 1))):
        made = data.create("imagenet2012", data_dir="elsewhere", size=24, short=24)
        assert (made.train_size, made.test_size) == (3, 3)
        assert sorted(made.train(0, 3)[0]["labels"]) == [0, 1, 2]
        (batch,) = made.evaluate(3)
        assert batch["inputs"].shape == (3, 24, 24, 3)


def test_a_broken_image_is_named():
    with mocked(b"no image"):
        made = data.create("imagenet2012")
        with pytest.raises(ValueError, match=r"train_0\.JPEG: no image"):
            made.train(0, 1)[0]
        with pytest.raises(ValueError, match=r"validation_0\.JPEG: no image"):
            next(iter(made.evaluate(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: expected a whole number of at least 1, got 0"),
        ({"size": 2.5}, "size: expected a whole number of at least 1, got 2.5"),
        ({"size": 300}, "short: expected a whole number of at least 300, got 256"),
        ({"short": 3}, "short: expected a whole number of at least 224, got 3"),
        ({"short": True}, "short: expected a whole number of at least 224, got True"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        data.create("imagenet2012", data_dir=str(FOLDER), **options)
    with pytest.raises(ValueError, match=message):
        data.spec("imagenet2012", **options)


COMMAND = (
    'run once, where tensorflow-cpu is installed: python -c "import tensorflow_datasets as tfds; '
    "tfds.builder('imagenet2012:5.1.0', data_dir='{0}')"
    ".download_and_prepare(file_format='array_record')\""
)
BRING = "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {0}/downloads/manual and "


def test_a_missing_set_names_archives_and_command(tmp_path):
    with pytest.raises(ValueError) as caught:
        data.create("imagenet2012", data_dir=str(tmp_path))
    told = f"data set 'imagenet2012' is not prepared in {tmp_path}; {BRING}{COMMAND}"
    assert str(caught.value) == told.format(tmp_path)


def test_a_lost_file_is_named(tmp_path):
    shutil.copytree(FOLDER / "imagenet2012", tmp_path / "imagenet2012")
    lost = tmp_path / "imagenet2012" / "5.1.0" / "imagenet2012-train.array_record-00000-of-00001"
    lost.unlink()
    with pytest.raises(ValueError) as caught:
        data.create("imagenet2012", data_dir=str(tmp_path))
    assert f"lacks {lost} (1 in all)" in str(caught.value)
    assert COMMAND.format(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_file_cut_short_is_a_value_error(tmp_path, kept):
    folder = tmp_path / "imagenet2012" / "5.1.0"
    shutil.copytree(FOLDER / "imagenet2012" / "5.1.0", folder)
    file = folder / "imagenet2012-train.array_record-00000-of-00001"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    made = data.create("imagenet2012", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"5\.1\.0: a file is damaged: record ") as caught:
        made.train(0, 12)[0]
    assert "\n" not in str(caught.value)


def test_a_set_without_validation_is_refused(tmp_path):
    shutil.copytree(FOLDER / "imagenet2012", tmp_path / "imagenet2012")
    info = tmp_path / "imagenet2012" / "5.1.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"] = [split for split in content["splits"] if split["name"] == "train"]
    info.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        data.create("imagenet2012", data_dir=str(tmp_path))
    remove = "remove {0}/imagenet2012/5.1.0, then "
    told = (
        f"data set 'imagenet2012' has no validation split in {tmp_path}; {remove}{BRING}{COMMAND}"
    )
    assert str(caught.value) == told.format(tmp_path)

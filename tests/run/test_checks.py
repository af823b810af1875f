"""The work directory, the labels and the batches that a run takes."""

import os

import numpy as np
import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.data.arrays import from_arrays
from domino_jax.run import checkpoint
from domino_jax.run.checks import require_batches, require_labels, require_usable

SOFTMAX = "softmax_cross_entropy"
X, Y = np.zeros((3, 2), np.float32), np.arange(3)


def _batch(*labels):
    return {"inputs": X, "labels": np.array(labels)}


@pytest.mark.parametrize("ignored", [-100, -1, 3, 255])
def test_exactly_the_ignored_label_is_taken(ignored):
    data = from_arrays((X, Y), (X, Y), classes=3, ignore_label=ignored)
    require_labels(_batch(0, ignored, 2), data, "test batch 0", SOFTMAX)
    require_labels(_batch(ignored, ignored, ignored), data, "test batch 0", SOFTMAX)
    for other in (-2, 256):
        message = rf"test batch 1 of the data: .* 0 to 2, or {ignored}, which does not count, got"
        with pytest.raises(ValueError, match=message):
            require_labels(_batch(0, other, 2), data, "test batch 1", SOFTMAX)


@pytest.mark.parametrize("labels", [(0, -100), (0, 3), (0.0, 1.0)])
def test_without_one_all_labels_are_classes(labels):
    data = from_arrays((X, Y), (X, Y), classes=3)
    with pytest.raises(ValueError, match=r"training batch 3 of the data: expected .* 0 to 2, got"):
        require_labels(_batch(*labels), data, "training batch 3", SOFTMAX)


@pytest.mark.parametrize(
    ("loss", "right", "wrong", "said"),
    [
        ("sigmoid_cross_entropy", (0, 1), (0, 2), "labels of 0 and 1 for each of the 3 outputs"),
        ("squared_error", (0.5, -7.0), (0.5, np.nan), "finite numbers as labels, got float64"),
        ("own_parts:absolute", (0.5, np.nan), None, ""),
    ],
)
def test_each_loss_has_its_labels(loss, right, wrong, said):
    data = from_arrays((X, Y), (X, Y), classes=3)
    require_labels(_batch(*right), data, "training batch 3", loss)
    if wrong:
        with pytest.raises(ValueError, match=f"training batch 3 of the data: expected {said}"):
            require_labels(_batch(*wrong), data, "training batch 3", loss)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_batches_of_whole_parts(parts):
    require_batches(scripts.settings(f"accumulate={parts}"))  # 16 examples on two devices


@pytest.mark.parametrize("parts", [3, 16])
def test_batches_that_parts_do_not_divide(parts):
    message = (
        rf"dense\.batch: .* of accumulate = {parts} times the 2 part\(s\) of mesh.data, got 16"
    )
    with pytest.raises(ValueError, match=message):
        require_batches(scripts.settings(f"accumulate={parts}"))


@pytest.mark.parametrize("missing", ["inputs", "labels"])
def test_a_batch_that_lacks_a_part(missing):
    data = from_arrays((X, Y), (X, Y), classes=3)
    batch = {key: value for key, value in _batch(0, 1, 2).items() if key != missing}
    with pytest.raises(InputError, match=f"training batch 0 of the data has no '{missing}', only"):
        require_labels(batch, data, "training batch 0", SOFTMAX)


@pytest.mark.parametrize("name", ["dense", "search", "train", "train/sparse"])
@pytest.mark.parametrize("target", ["nothing", ""])
def test_a_folder_that_is_a_link_to_nothing_or_to_itself(tmp_path, name, target):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    require_usable(tmp_path)
    (tmp_path / name).symlink_to(target or tmp_path / name)
    with pytest.raises(InputError, match=rf"{tmp_path / name}: .* \(it is a link to nothing\)$"):
        require_usable(tmp_path)


@pytest.mark.parametrize("name", ["results.json", "scheme.json", "search/votes.jsonl"])
def test_a_pipe_is_no_file(tmp_path, name):
    (tmp_path / "search").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: expected a file, got a pipe"):
        require_usable(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_results_that_cannot_be_written_again_are_told_at_the_start(tmp_path, number):
    path = tmp_path / "results.json"
    path.write_text(f'{{"search": {{"x": [{number}]}}}}')
    with pytest.raises(InputError, match=rf"^{path}: not JSON, which has finite numbers"):
        require_usable(tmp_path)


def test_a_curve_that_breaks_the_end_of_a_search_is_told_at_the_start(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "votes.jsonl").write_text('{"step": 1, "share": NaN}\n{}\n')
    with pytest.raises(InputError, match=r"votes\.jsonl, line 1: expected a point"):
        require_usable(tmp_path)


@pytest.mark.parametrize("folder", ["dense", "train/sparse"])
def test_a_step_without_its_manifest_is_told_at_the_start(tmp_path, folder):
    checkpoint.save(tmp_path / folder, 30, {"a": 1})
    (tmp_path / folder / "99").mkdir()  # somebody's own
    require_usable(tmp_path)
    (tmp_path / folder / "30" / "leaves.json").unlink()
    with pytest.raises(InputError, match=rf"{folder}/30: .*damaged one \(it has no leaves\.json"):
        require_usable(tmp_path)

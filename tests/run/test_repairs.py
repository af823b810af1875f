"""One broken picture: found before a run, and no run is lost to it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scripts
from PIL import Image

from domino_jax.run import repairs

COLORS = {"cat": (200, 60, 60), "dog": (60, 60, 200)}


def put(path, color, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(-40, 40, (*size, 3))
    Image.fromarray((np.array(color) + noise).astype(np.uint8)).save(path)


def pictures(root):
    for name, color in COLORS.items():
        for number in range(32):
            put(root / "train" / name / f"{number}.jpg", color)
        for number in range(8):
            put(root / "test" / name / f"{number}.jpg", color)
    return root


def options(root):
    return "data.name=folder", f"data.dir={root}", "data.size=8", "train.epochs=1.0"


def search(folder, root):
    scripts.search(folder, *options(root))


def train(folder, root, **others):
    scripts.train(folder, *options(root), **others)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Pictures, and a work directory that was searched in with them."""
    made = tmp_path_factory.mktemp("searched")
    search(made / "run", pictures(made / "data"))
    return made


@pytest.fixture
def copy(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "copy")


def refused(run, *arguments, match, **others):
    with pytest.raises(ValueError, match=match) as caught:
        run(*arguments, **others)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", ["train/cat/3.jpg", "test/dog/7.jpg"])
@pytest.mark.parametrize("mend", [Path.unlink, lambda path: put(path, (9, 90, 90), (20, 20))])
def test_found_at_the_start_and_mended(tmp_path, capfd, broken, mend):
    root, run = pictures(tmp_path / "data"), tmp_path / "run"
    (root / broken).write_bytes(b"")
    refused(search, run, root, match=rf"{broken}: the file is empty: replace or remove it")
    assert not any((run / name).exists() for name in ("dense", "search", "config.json"))
    assert "checking the files of the data 80/80" in capfd.readouterr().err
    mend(root / broken)
    search(run, root)
    assert (run / "scheme.json").exists()
    assert "mended" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("mend", "said"),
    [
        (Path.unlink, "train/cat/3.jpg is gone"),
        (lambda path: put(path, (9, 90, 90), (20, 20)), r"train/cat/3.jpg has \d+ bytes, had \d+"),
    ],
)
def test_a_run_goes_on_whose_data_were_mended(copy, capfd, mend, said):
    root, run = copy / "data", copy / "run"
    picture = root / "train" / "cat" / "3.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    refused(train, run, root, match=r"cat/3\.jpg: .*: replace or remove it, then start again$")
    mend(picture)
    capfd.readouterr()
    for _ in range(2):  # and once more
        train(run, root)
        line = next(x for x in capfd.readouterr().err.splitlines() if "mended" in x)
        assert re.search(f"the run goes on: {said}$", line), line
    assert scripts.results(run)["train"]["tuned"]


def test_any_other_change_is_other_data(copy):
    root, run = copy / "data", copy / "run"
    picture = root / "train" / "cat" / "3.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(b"")
    refused(train, run, root, match=r"cat/3\.jpg: the file is empty")
    picture.write_bytes(whole)
    (root / "train" / "cat" / "4.jpg").unlink()  # which was never broken
    refused(train, run, root, match=r"made with other settings: data\.fingerprint")
    picture.unlink()
    refused(train, run, root, match=r"made with other settings: data\.fingerprint")


@pytest.mark.parametrize("broken", ["test/dog/7.jpg", "train/dog/[1-9]*.jpg"])
def test_a_picture_that_breaks_during_a_run_is_noted(copy, capfd, broken):
    """In an evaluation of the test set, and in passes over the training set."""
    root, run = copy / "data", copy / "run"
    pictures = sorted(root.glob(broken))
    asked = iter(range(100_000))

    def breaks():
        if next(asked) == 3:
            for picture in pictures:
                picture.write_bytes(b"")
        return False

    refused(train, run, root, should_stop=breaks, match=r"\.jpg: the file is empty: replace")
    noted = json.loads((run / repairs.FILES).read_text())["broken"]
    assert noted == [str(picture.relative_to(root)) for picture in pictures]
    for picture in pictures:
        picture.unlink()
    train(run, root)
    assert f"the run goes on: {noted[0]} is gone" in capfd.readouterr().err


def test_many_broken_files_are_counted(tmp_path):
    root = pictures(tmp_path / "data")
    for number in range(6):
        (root / "train" / "dog" / f"{number}.jpg").write_bytes(b"")
    match = r"dog/0\.jpg: .* start again; so are train/dog/1\.jpg, .*3\.jpg and 2 more$"
    refused(search, tmp_path / "run", root, match=match)

"""Links in a folder of pictures: each real file once, no way up, one class each."""

import os
from pathlib import Path

import pytest
from PIL import Image

from domino_jax import data
from domino_jax.data.tree import files, pictures

NAMES = ("cat", "dog")


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9)).save(path)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "test"):
        for name in NAMES:
            for number in range(3):
                put(root / split / name / f"{number}.png")
    return root


def found(root):
    train, test = pictures([root / "train", root / "test"], NAMES)
    inside = [str(Path(path).relative_to(root / "train")) for path in train.paths]
    assert len(test.paths) == 6
    return list(zip(inside, train.labels, strict=True))


PLAIN = [(f"{name}/{number}.png", label) for label, name in enumerate(NAMES) for number in range(3)]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/up", ".."),
        ("cat/top", "../.."),
        ("cat/all", "../../.."),
        ("cat/root", "/"),
        ("cat/me", "."),
        ("cat/self", "self"),
        ("cat/self.png", "self.png"),
        ("cat/again.png", "0.png"),
        ("cat/A.png", "0.png"),  # before it in the order of names
        ("cat/fluffy", "../dog"),
        ("cat/wrong.png", "../dog/1.png"),
        ("cat/leak", "../../test/cat"),
        ("cat/leak.png", "../../test/dog/1.png"),
        ("cat/zero.png", "/dev/zero"),
        (".hidden", "cat"),
    ],
)
def test_links_inside_add_nothing(root, link, target):
    (root / "train" / link).symlink_to(target)
    assert found(root) == PLAIN


def test_a_file_below_is_walked_once_whatever_cycle_leads_to_it(root):
    put(root / "train" / "cat" / "sub" / "deep" / "9.png")
    (root / "train" / "cat" / "sub" / "deep" / "back").symlink_to("../..")
    (root / "train" / "cat" / "a").symlink_to("sub")
    assert found(root) == [*PLAIN[:3], ("cat/sub/deep/9.png", 0), *PLAIN[3:]]


def test_links_to_elsewhere_are_followed_once(root, tmp_path):
    put(tmp_path / "disk" / "9.png")
    (tmp_path / "disk" / "home").symlink_to(root)
    for name in ("one", "two"):
        (root / "train" / "cat" / name).symlink_to(tmp_path / "disk")
    assert found(root) == [*PLAIN[:3], ("cat/one/9.png", 0), *PLAIN[3:]]


def test_one_file_from_elsewhere_in_two_classes_is_refused(root, tmp_path):
    put(tmp_path / "disk" / "9.png")
    for name in NAMES:
        (root / "train" / name / "more").symlink_to(tmp_path / "disk")
    message = r"dog/more/9\.png and .*cat/more/9\.png are links to one file, .* cat and dog; remove"
    with pytest.raises(ValueError, match=message) as caught:
        found(root)
    assert "\n" not in str(caught.value)


def test_a_class_under_two_names_is_refused(root):
    (root / "train" / "kitten").symlink_to("cat")
    with pytest.raises(ValueError, match=r"are links to one file, .* cat and kitten"):
        data.create("folder", data_dir=str(root), size=8)


@pytest.mark.parametrize("target", [".", "..", "../..", "cat/../.."])
def test_a_class_that_leads_up_is_refused(root, target):
    (root / "train" / "up").symlink_to(target)
    with pytest.raises(ValueError, match=r"train/up: a class without images; add some or remove"):
        data.create("folder", data_dir=str(root), size=8)


def test_whole_classes_and_splits_may_be_links(root, tmp_path):
    (root / "train" / "cat").rename(tmp_path / "cats")
    (root / "train" / "cat").symlink_to(tmp_path / "cats")
    (root / "test").rename(root / "val")
    (root / "test").symlink_to("val")
    assert found(root) == PLAIN


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("li.txt", "i.txt"),
        ("A.txt", "z/deep/j.TXT"),
        ("self.txt", "self.txt"),
        ("up", ".."),
        ("me", "."),
        ("a", "z/deep"),
        ("z/back", ".."),
        ("z/deep/back.txt", "../../i.txt"),
        ("more.txt", "/dev/zero"),
        (".hidden", "/usr"),
    ],
)
def test_links_add_no_text(tmp_path, link, target):
    folder = tmp_path / "text"
    (folder / "z" / "deep").mkdir(parents=True)
    for name in ("i.txt", "z/deep/j.TXT"):
        (folder / name).write_text(name)
    (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe.txt")
    found = files(folder, (".txt",))
    assert {name: path.read_text() for name, path in found.items()} == {
        "i.txt": "i.txt",
        "z/deep/j.TXT": "z/deep/j.TXT",
    }
    assert [*found] == ["i.txt", "z/deep/j.TXT"]


def test_text_from_elsewhere_counts_once(tmp_path):
    folder, disk = tmp_path / "text", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (disk / "i.txt").write_text("i")
    (folder / "more").symlink_to(disk)
    (folder / "i.txt").symlink_to(disk / "i.txt")
    (folder / "gone.txt").symlink_to(disk / "gone.txt")
    assert [*files(folder, (".txt",))] == ["gone.txt", "i.txt"]

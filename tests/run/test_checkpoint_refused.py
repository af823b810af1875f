"""What cannot be saved or restored: other templates, foreign folders, damaged files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, manifest, orbax_files

SMALL = {"a": {"x": np.ones((2, 3), np.float32), "y": np.ones(2, np.int32)}, "b": np.int64(1)}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": SMALL["a"]}, "has an unexpected 'b' (1 in all)"),
        (SMALL | {"c": np.ones(1), "d": np.ones(1)}, "lacks 'c' (2 in all)"),
        (
            SMALL | {"a": {"x": np.ones(1)}, "c": 1},
            "lacks 'c' (1 in all) and has an unexpected 'a/y'",
        ),
        (SMALL | {"b": np.ones(1, np.int64)}, "'b' is int64[] here, expected int64[1]"),
        (SMALL | {"b": np.int32(1)}, "'b' is int64[] here, expected int32[]"),
        (SMALL | {"b": 1.0}, "'b' is int64[] here, expected float64[]"),
        (
            SMALL | {"a": SMALL["a"] | {"x": np.ones((3, 2), np.float32)}},
            "'a/x' is float32[2,3] here, expected float32[3,2]",
        ),
        (
            SMALL | {"a": SMALL["a"] | {"x": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)}},
            "'a/x' is float32[2,3] here, expected bfloat16[2,3]",
        ),
    ],
)
def test_another_template(tmp_path: Path, template: Any, message: str) -> None:
    checkpoint.save(tmp_path, 3, SMALL)
    with pytest.raises(ValueError) as caught:
        checkpoint.restore(tmp_path, template)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / '3'}: ")


def test_a_jax_template_cannot_hold_float64(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 0, {"a": np.ones(2)})
    with pytest.raises(ValueError, match="'a': float64 needs a numpy template or jax_enable_x64"):
        checkpoint.restore(tmp_path, {"a": jax.ShapeDtypeStruct((2,), np.float64)})
    with jax.enable_x64(True):
        restored = checkpoint.restore(tmp_path, {"a": jax.ShapeDtypeStruct((2,), np.float64)})
        assert restored["a"].dtype == np.float64


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "nothing to save"),
        ({"a": None, "b": np.zeros((0,))}, "nothing to save"),
        ({"a": {"b": "text"}}, "leaf 'a/b': .* not str"),
        ({"a": np.array(["text"])}, "leaf 'a': .* not <U4"),
        ({"a": np.array([{}])}, "leaf 'a': .* not object"),
        ({"a": object()}, "leaf 'a': .* not object"),
        ({"k": jax.random.key(0)}, "leaf 'k': .* not key<fry>"),
    ],
)
def test_trees_that_cannot_be_saved(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path / "run", 0, tree)
    assert not (tmp_path / "run").exists()


def test_two_leaves_of_one_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two leaves of the tree have the same path"):
        checkpoint.save(tmp_path, 0, {"a": {"b": 1}, "a/b": 2})


def test_steps_go_forward(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, {"a": 1})
    with pytest.raises(ValueError, match="step 4 cannot be saved after step 5"):
        checkpoint.save(tmp_path, 4, {"a": 1})
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoint.save(tmp_path, 6, {"a": 1}, keep=0)
    with pytest.raises(ValueError, match="step at least 0, got 3 and -1"):
        checkpoint.save(tmp_path, -1, {"a": 1})


def test_no_such_step(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="there is no checkpoint in this folder"):
            checkpoint.restore(folder, {"a": 1})
    checkpoint.save(tmp_path, 5, {"a": 1})
    checkpoint.save(tmp_path, 6, {"a": 1})
    with pytest.raises(ValueError, match="there is no step 4, only 5, 6"):
        checkpoint.restore(tmp_path, {"a": 1}, step=4)


def test_foreign_folders(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="there is no checkpoint in this folder"):
        checkpoint.restore(tmp_path, {"a": 1})
    for path in (tmp_path, tmp_path / "none", tmp_path / "7", tmp_path / "7" / "notes.txt"):
        with pytest.raises(ValueError, match=f"{path.name}: not a checkpoint of this program"):
            checkpoint.restore_parts(path, {"a": 1})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "leaves": [], "files": {}}', "\xff"]
)
def test_broken_manifest(tmp_path: Path, text: str) -> None:
    checkpoint.save(tmp_path, 0, {"a": 1})
    (tmp_path / "0" / "leaves.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"0: not a checkpoint of this program.*leaves.json"
    ) as caught:
        checkpoint.restore(tmp_path, {"a": 1})
    assert "\n" not in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_files(
    tmp_path: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    tree = {"a": np.arange(3000.0), "b": np.ones(5)}
    checkpoint.save(tmp_path / "whole", 0, tree)
    step = tmp_path / "whole" / "0"
    files = [path for path in step.rglob("*") if path.is_file() and path.name != "leaves.json"]
    assert len(files) > 4
    for i, file in enumerate(files):
        copy = tmp_path / f"{i}" / "0"
        shutil.copytree(step, copy)
        damage(copy / file.relative_to(step))
        with pytest.raises(ValueError, match="damaged checkpoint") as caught:
            checkpoint.restore(copy.parent, tree)
        assert str(copy / file.relative_to(step)) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_step_of_ours_is_never_read_without_its_manifest(tmp_path: Path) -> None:
    """Orbax alone would read it, and notices no flipped bit."""
    tree = {"params": {"conv": np.ones(5), "fc": {"kernel": np.ones(2)}}, "step": 3}
    wanted = {"params": tree["params"]}
    checkpoint.save(tmp_path, 30, tree)
    (tmp_path / "30" / "leaves.json").unlink()
    for call in (checkpoint.restore_parts, checkpoint.require_fits):
        for path in (tmp_path, tmp_path / "30"):
            with pytest.raises(InputError, match="30: not a checkpoint of this program, or a dama"):
                call(path, wanted)


def test_a_folder_of_a_number_is_no_step(tmp_path: Path) -> None:
    tree = {"params": {"conv": np.ones(500)}}
    checkpoint.save(tmp_path, 30, tree)
    (tmp_path / "99").mkdir()
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "image.png").write_text("somebody's own")
    assert checkpoint.steps(tmp_path) == [30]
    assert checkpoint.restore_parts(tmp_path, tree)["params"]["conv"].sum() == 500
    checkpoint.save(tmp_path, 31, tree, keep=1)
    assert checkpoint.steps(tmp_path) == [31]
    assert (tmp_path / "1" / "image.png").exists()
    flip(max((tmp_path / "31" / "d").iterdir(), key=lambda path: path.stat().st_size))
    with pytest.raises(InputError, match=r"31/d/.*: damaged checkpoint: saved and found are"):
        checkpoint.restore_parts(tmp_path, tree)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nothing")])
def test_what_is_no_step_is_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "3")
    for act in (lambda: checkpoint.save(tmp_path, 3, SMALL), lambda: checkpoint.tidy(tmp_path)):
        with pytest.raises(InputError, match=r"/3: expected a place for a checkpoint; move away"):
            act()
    (tmp_path / "3").rename(tmp_path / "mine")
    checkpoint.tidy(tmp_path)
    assert checkpoint.restore(tmp_path, SMALL)["b"] == 1


def test_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, SMALL)
    path = tmp_path / "3" / "manifest.ocdbt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(
        InputError, match=f"{path}: damaged checkpoint: expected a file, got a pipe"
    ):
        checkpoint.restore(tmp_path, SMALL)


def test_a_manifest_of_other_leaves(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 0, {"a": np.ones(5)})
    manifest = tmp_path / "0" / "leaves.json"
    document = json.loads(manifest.read_text())
    for path, spec in (("z", ["float64", [5]]), ("a", ["float32", [5]]), ("a", ["float64", [4]])):
        manifest.write_text(json.dumps(document | {"leaves": {path: spec}}))
        with pytest.raises(ValueError, match=f"0: damaged checkpoint: '{path}' is not {spec[0]}"):
            checkpoint.restore(tmp_path, {path: np.ones(spec[1], spec[0])})


def test_an_orbax_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 0, {"a": np.ones(5)})
    (tmp_path / "0" / "manifest.ocdbt").unlink()
    monkeypatch.setattr(manifest, "require_whole", lambda *_: None)
    with pytest.raises(ValueError, match="0: Orbax cannot read the checkpoint: ") as caught:
        checkpoint.restore(tmp_path, {"a": np.ones(5)})
    assert "\n" not in str(caught.value)


def test_a_step_of_another_format(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, SMALL)
    path = tmp_path / "3" / manifest.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match=r"leaves\.json: expected format 1, got 2"):
        checkpoint.restore(tmp_path, SMALL)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"x": None}},
        {"files": {"x": [1]}},
        {"files": {"x": [1, "2"]}},
        {"files": {"x": "12"}},
        {"files": [1]},
        {"leaves": {"a": ["float64", ["5"]]}},
        {"leaves": {"a": [["float64"], [5.0]]}},
        {"leaves": [1]},
    ],
)
def test_a_manifest_of_another_form(tmp_path: Path, change: dict[str, Any]) -> None:
    checkpoint.save(tmp_path, 3, SMALL)
    path = tmp_path / "3" / manifest.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"3: not a checkpoint of this program, or a damaged one"):
        checkpoint.restore(tmp_path, SMALL)
    (tmp_path / "3").rename(tmp_path / "3.new")
    checkpoint.tidy(tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_failed_is_removed_though_its_writers_are_still_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of Orbax puts a file into the folder that is being removed."""
    tried: list[Path] = []
    remove = shutil.rmtree

    def write(new: Path, leaves: Any) -> None:
        del leaves
        Path(f"{new}.orbax-checkpoint-tmp").mkdir()
        raise InputError("full")

    def busy(folder: Path) -> None:
        tried.append(folder)
        if len(tried) == 1:
            raise OSError("Directory not empty")
        remove(folder)

    monkeypatch.setattr(orbax_files, "write", write)
    monkeypatch.setattr(shutil, "rmtree", busy)
    with pytest.raises(InputError, match="full"):
        checkpoint.save(tmp_path, 1, SMALL)
    assert len(tried) == 2
    assert list(tmp_path.iterdir()) == []

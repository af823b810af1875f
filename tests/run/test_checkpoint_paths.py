"""Folders of any name, full disks, limits, read-only folders: saved and read, or one line."""

import asyncio
import gc
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domino_jax.run import checkpoint, orbax_files

TREE = {"a": np.arange(6.0), "b": np.ones(3, np.float32)}
BLANK = {"a": np.zeros(6), "b": np.zeros(3, np.float32)}
NAMES = [
    *("exp[1]", "[ab]", "[!a]", "[0-9]", "[", "]", "*", "**", "a*b", "a**b", "?", "a?b", "{a,b}"),
    *("a\\b", "\\", "a\\", "!", "a b", " a", "a ", "'", '"', "%41", "a%2Fb", "#", "-a", "--a"),
    *("~", "$HOME", "a:b", "gs:", "file:", "s3:", "ü", "日本", "\U0001f600", "\x01", "\x1b[31m"),
    *("a\nb", "a\udcffb", "0", "12", "d", "tmp", "x.orbax-checkpoint-tmp", "ocdbt.process_0"),
    *("..a", "a|b", "a;b", "a&b", "(a)", "<a>", "a=b", "a@b", "a,b", "^", "`"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / name, tmp_path / name / "dense"):
        checkpoint.save(folder, 1, TREE)
        checkpoint.save(folder, 2, TREE, keep=1)
        restored = checkpoint.restore(folder, BLANK)
        assert all((restored[key] == TREE[key]).all() for key in TREE)
        assert checkpoint.steps(folder) == [2]


@pytest.mark.parametrize("kind", ["other bits", "unreadable"])
def test_what_cannot_be_read_back_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As where a system has no other name for a folder that Orbax takes for a pattern."""
    checkpoint.save(tmp_path / "[1]", 1, TREE)
    with monkeypatch.context() as patch:
        if kind == "unreadable":
            patch.setattr(orbax_files, "_OPEN", tmp_path / "none")
            message = "Orbax cannot read the checkpoint: "
        else:
            patch.setattr(orbax_files, "read", lambda *_: TREE | {"b": np.zeros(3, np.float32)})
            message = "'b' is read back with other bits than were saved"
        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.save(tmp_path / "[1]", 2, TREE)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "[1]").iterdir()] == ["1"]
    assert (checkpoint.restore(tmp_path / "[1]", BLANK)["a"] == TREE["a"]).all()


LIMITED = """
import resource
import sys
import jax
import numpy as np
import orbax.checkpoint
from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint
checkpoint.save(sys.argv[1], 1, {"a": np.ones(3)})
resource.setrlimit(getattr(resource, sys.argv[2]), (int(sys.argv[3]),) * 2)
values = np.random.default_rng(0).normal(size=(8, 20_000))
try:
    checkpoint.save(sys.argv[1], 2, {str(i): row for i, row in enumerate(values)})
except InputError as error:
    print(error)
"""


def limited(folder: Path, limit: str, value: int) -> str:
    command = [sys.executable, "-c", LIMITED, str(folder), limit, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("RLIMIT_FSIZE", 20_000, "File too large"),
        ("RLIMIT_FSIZE", 150, "File too large"),
        ("RLIMIT_NOFILE", 10, "Too many open files"),
    ],
)
def test_a_limit_is_one_line_and_nothing_is_lost(
    tmp_path: Path, limit: str, value: int, words: str
) -> None:
    assert hasattr(resource, limit)
    printed = limited(tmp_path, limit, value)
    assert printed == f"{tmp_path}: step 2 cannot be saved: {words}\n"
    assert checkpoint.steps(tmp_path) == [1]
    assert (checkpoint.restore(tmp_path, {"a": np.zeros(3)})["a"] == 1).all()


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    try:
        printed = limited(tmp_path / "run", "RLIMIT_NOFILE", 1000)
        assert printed == f"{tmp_path}/run: step 2 cannot be saved: No space left on device\n"
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]
        assert (checkpoint.restore(tmp_path / "run", {"a": np.zeros(3)})["a"] == 1).all()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(("file", "told"), [("site/orbax/handler.py", 0), ("site/other.py", 2)])
def test_tasks_of_orbax_that_fail_after_the_first_print_nothing(
    file: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk several tasks fail, one is raised, and asyncio tells of the others."""
    code = "async def write():\n    raise ValueError('No space left on device')\n"
    names: dict[str, Any] = {}
    exec(compile(code, file, "exec"), names)

    async def save() -> None:
        kept = [asyncio.create_task(names["write"]()) for _ in range(2)]
        await asyncio.sleep(0.01)
        raise ValueError(f"{len(kept)} failed")

    with pytest.raises(ValueError, match=r"^run: 2 failed$"):
        orbax_files._in_one_line("run", lambda: asyncio.run(save()))
    gc.collect()
    assert [record.name for record in caplog.records] == ["asyncio"] * told


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"^{tmp_path}/file/run: cannot be made .Not a directory"):
        checkpoint.save(tmp_path / "file" / "run", 1, TREE)
    with pytest.raises(ValueError, match=r": cannot be made \(File name too long\)$"):
        checkpoint.save(tmp_path / ("x" * 300), 1, TREE)

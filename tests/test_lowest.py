"""The lowest versions of the requirements, with which CI tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lowest(path):
    command = [sys.executable, str(ROOT / ".ci" / "lowest"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_requirement_has_one():
    texts = [ROOT / name for name in ("requirements.txt", "requirements-dev.txt")]
    names = [
        line.replace("==", ">=").partition(">=")[0]
        for text in texts
        for line in text.read_text().splitlines()
        if line and line[0] not in "#-"
    ]
    pins = dict(line.split("==") for line in lowest(texts[1]).stdout.splitlines())
    assert list(pins) == names
    assert all(version[0].isdigit() for version in pins.values())


@pytest.mark.parametrize("line", ["jax", "jax<1", "jax>=1,<2", "jax~=1.0"])
def test_a_requirement_without_one_is_refused(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"numpy>=2.0  # why\n\n{line}\n")
    done = lowest(tmp_path / "a.txt")
    assert done.returncode
    assert f"expected name>=version or name==version, got {line!r}" in done.stderr

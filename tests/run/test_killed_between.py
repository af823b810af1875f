"""Every writer, killed between every two of its file operations, leaves all that was whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import scripts

# scenario of killing.py: operations at the least, and whether the last step is away after some
SCENARIOS = {
    "same": (1, False),  # nothing is written again that is there
    "only": (20, True),
    "curve": (4, False),
    "json": (6, False),
    "refused": (8, False),
    "begin": (6, False),
    "first": (10, False),
    "next": (20, False),
    "again": (20, True),
    "forget": (40, True),
    "anew": (100, True),
    "train anew": (60, False),
}
SLOW = ("first", "next", "again", "only", "forget", "anew", "train anew")


def kill_everywhere(name: str, folder: Path, times: str) -> list[int]:
    environment = {**os.environ, **scripts.ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("killing.py"))]
    done = subprocess.run(
        [*command, name, str(folder), times],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in SLOW])
def test_killed_between_two_operations(tmp_path: Path, name: str) -> None:
    kills, _, away = kill_everywhere(name, tmp_path, "once")
    assert (kills >= SCENARIOS[name][0], away > 0) == (True, SCENARIOS[name][1])
    assert name != "same" or kills == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_killed_again_at_the_next_start(tmp_path: Path, name: str) -> None:
    kills, starts, _ = kill_everywhere(name, tmp_path, "twice")
    print(name, kills, "kills of the writer,", starts, "of the next start")
    assert kills >= SCENARIOS[name][0]

"""Damaged files of users: refused in one line by every parser, and nothing else happens.

Here every byte of small files is cut and changed in a few ways; the command tries as many inputs
as it is told, guided by what they reach: python -m tests.fuzz --runs=1000000.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from domino_jax.core.errors import InputError
from tests.fuzz.targets import TARGETS

TRIES = 60


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].read(seed)


def damaged(seed, draw):
    """Cuts, repeats, or changes a few bytes."""
    content = bytearray(seed)
    start, end = sorted(draw.choices(range(len(content) + 1), k=2))
    kind = draw.randrange(4)
    if kind == 0:
        del content[start:]
    elif kind == 1:
        del content[start : min(end, start + 8)]
    elif kind == 2:
        content[start:start] = content[start:end]
    else:
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.choice((0, 255, 91, 123, 34, 57, 45, 128))
    return bytes(content)


@pytest.mark.filterwarnings("ignore")  # of Pillow and of Python's parser
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_or_read(name):
    seeds, read = TARGETS[name]
    draw = random.Random(name)
    refused = 0
    for _ in range(TRIES):
        try:
            read(damaged(draw.choice(seeds), draw))
        except InputError as error:
            refused += 1
            assert str(error)
    assert refused > TRIES // 10


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_twenty_thousand_inputs(name):
    command = [sys.executable, "-m", "tests.fuzz", name, "--runs=20000"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing but InputErrors" in done.stdout

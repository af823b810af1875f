"""What the compiler of TPUs says of a small network; `.ci/tpu` installs it and runs this."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu: see .ci/tpu"),
]


@pytest.fixture(scope="module")
def printed():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tpu", "--networks=small_decoder"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return re.sub(r" +", " ", done.stdout)


def test_allocators_hold_little_more_than_the_weights_and_a_gradient(printed):
    shares = dict(re.findall(r"\| small_decoder, (\w+).* \| ([\d.]+) \|\n", printed)[:3])
    assert set(shares) == {"fisher", "kdiag", "kronecker"}
    assert float(shares["fisher"]) <= 2
    assert all(float(shares[name]) <= 1.1 for name in ("kdiag", "kronecker"))


def test_sparse_steps_talk_as_much_as_dense_ones(printed):
    """One reduction more of the search: that of its vote, for all layers together."""
    told = dict(re.findall(r"small_decoder on 2 x 4, (.*?) \| .* \| (\d.*?) \| \d+ \|\n", printed))
    assert set(told) == {"dense for search", "search", "dense for SR-STE", "SR-STE"}
    assert told["search"] == told["dense for search"]
    assert told["SR-STE"] == told["dense for SR-STE"]

"""Every benchmark runs, on its smallest input, and every command that we print names one."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from domino_jax import models
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.table import allocate
from domino_jax.allocate.uniform import uniform_nm
from domino_jax.core.costs import count_weights, total_cost
from domino_jax.core.scheme import NM
from domino_jax.run import experiment, settings

ROOT = Path(__file__).parents[2]
SHARED = {"clock", "networks", "torch_gpu"}  # torch_gpu: tests/deploy/test_tune.py
SMALL = ["--model=resnet8", "--size=8", "--batch=2", "--rounds=1"]
NM_OF = {
    "attention2_mlp5": ["2:16", "5:16"],
    "attention6_mlp3": ["6:16", "3:16"],
    "attention8_mlp2": ["8:16", "2:16"],
}
OTHERS = {"start", "attention_share", "faults", "disks", "long_run"}
# Module -> arguments of a run of seconds, and what it prints.
RUNS = {
    "masks": (["--rounds=1", "--shrink=1000"], "mask / copy"),
    "steps": (SMALL, "| SR-STE |"),
    "compiling": ([*SMALL, "--m", "4"], "| search, M = 4 |"),
    "against_torch": (["--rounds=1", "--cases", "resnet8:8:2", "byte_lm:8:2"], "| byte_lm:8:2 |"),
    "pipeline": (["--rounds=1", "--images=2"], "| evaluation |"),
}


def run(module, *arguments, timeout=300):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return re.sub(r" +", " ", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("module", RUNS)
def test_it_prints_its_table(module):
    arguments, row = RUNS[module]
    assert row in run(module, *arguments)


@pytest.mark.slow
def test_starts():
    assert "| first step: search, warm |" in run("start", "--rounds=1", timeout=600)


@pytest.mark.parametrize("share", ["attention2_mlp5", "attention6_mlp3", "attention8_mlp2"])
def test_shares_of_attention_have_the_weights_of_4_of_16(share):
    example = jax.ShapeDtypeStruct((1, 16), np.uint8)
    options = {"width": 32, "depth": 1}
    model = models.create("byte_lm", example=example, classes=256, seed=0, **options)
    layers = experiment.layers_of(model, example, settings.defaults().search)
    scheme = allocate(f"benchmarks.attention_share:{share}", Problem(layers, None))
    assert {str(nm) for nm in scheme.values()} == {"4:16", *NM_OF[share]}
    uniform = uniform_nm(layers, NM(4, 16))
    costs = [total_cost(layers, count_weights, each) for each in (scheme, uniform)]
    assert costs[0] == costs[1]


@pytest.mark.slow
def test_runs_that_are_killed():
    printed = run("faults", "--runs=2", timeout=900)
    assert "| search | 2 of 2 |" in printed
    assert "| train | 2 of 2 |" in printed


@pytest.mark.slow
def test_runs_whose_disk_fails():
    printed = run("disks", "full", "limit", "directory moved", "--runs=1", timeout=900)
    names = ("limit on the size of a file", "directory moved in mid-run")
    assert all(f"| {name} | 1 of 1 | 1 of 1 |" in printed for name in names)


def test_a_long_run():
    printed = run("long_run", "--steps=200")
    assert re.search(r"\| 180 \| [\d.]+ \| [\d.]+ \|", printed)
    assert "MB in 10,000 steps, of 200" in printed


def test_every_benchmark_is_run_here():
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert modules == set(RUNS) | SHARED | OTHERS


def test_every_command_that_we_print_names_a_benchmark():
    texts = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").glob("*.md")]
    named = {
        name
        for text in texts
        for name in re.findall(r"python -m benchmarks\.(\w+)", text.read_text())
    }
    assert named
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in named)

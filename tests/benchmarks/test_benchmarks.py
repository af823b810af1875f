"""Every benchmark runs, on its smallest input, and every command that we print names one."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import llm
import numpy as np
import pytest
import tokens

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
OTHERS = {
    "agreement",
    "attention_share",
    "disks",
    "faults",
    "language_model",
    "large",
    "long_run",
    "start",
    "tpu",
}
# Module -> arguments of a run of seconds, and what it prints.
RUNS = {
    "masks": (["--rounds=1", "--shrink=1000"], "mask / copy"),
    "steps": (SMALL, "| SR-STE |"),
    "trainers": ([*SMALL, "--m=4"], "| decaying_structure |"),
    "compiling": ([*SMALL, "--m", "4"], "| search, M = 4 |"),
    "against_torch": (["--rounds=1", "--cases", "resnet8:8:2", "byte_lm:8:2"], "| byte_lm:8:2 |"),
    "instant": (["--networks=small_decoder"], "| small_decoder |"),
    "memory": (["--rounds=1", "--small", "--networks=decoder"], "| decoder, remat |"),
    "growth": (["--rounds=1", "--millions", "0.1", "0.4"], "| vote, M = 16 |"),
    "saves": (SMALL, "| of it: read back and compare |"),
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
def test_sparsity_costs_a_byte_a_weight_its_thresholds_and_a_copy():
    """On eight virtual devices, at M = 16: 4 / M + 1 bytes, and 4 of the masked weights."""
    printed = run("large", "--networks=small_decoder")
    each = re.findall(r"\| small_decoder, .* \| ([\d.]+) \| \d+ \|", printed)
    assert len(each) == 2
    assert all(float(bytes_of_weight) <= 4 / 16 + 1 + 4 for bytes_of_weight in each)


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


@pytest.mark.slow
def test_a_language_model_is_not_measured_twice(tmp_path):
    """Of a small random network; columns with and without the update, and each kind of table."""
    folder = tokens.save(llm.save(llm.make("llama", vocab_size=tokens.SIZE), tmp_path / "dense"))
    for part in ("calibration", "evaluation"):
        (tmp_path / "text" / part).mkdir(parents=True)
        (tmp_path / "text" / part / "a.txt").write_text("a few words say little\n\n" * 20)
    flags = [f"--folder={folder}", f"--text={tmp_path / 'text'}", f"--keep={tmp_path / 'keep'}"]
    flags += ["--length=16", "--windows=4", "--judged=4", "--m=8", "--methods"]
    methods = ["uniform", "kronecker", "fisher"]
    printed = run("language_model", *flags, *methods)
    assert "50.0% of the weights in the blocks kept, M = 8" in printed
    for method in methods:
        assert f"| {method} |" in printed
    (cells,) = (tmp_path / "keep").glob("*/cells_4.jsonl")
    before = cells.read_text()
    assert len(before.splitlines()) == 1 + len(methods) * 5
    again = run("language_model", *flags, *methods)
    assert again.splitlines()[-5:] == printed.splitlines()[-5:]
    assert cells.read_text() == before


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

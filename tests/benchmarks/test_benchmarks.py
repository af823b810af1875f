"""Every benchmark runs, on its smallest input, and every command that we print names one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = {"clock", "networks", "torch_gpu"}  # torch_gpu: tests/deploy/test_tune.py
SMALL = ["--model=resnet8", "--size=8", "--batch=2", "--rounds=1"]
TINY_BYTES = [
    *("--config.model.width=32", "--config.model.depth=1", "--config.data.test_examples=8"),
    *("--config.data.length=16", "--config.dense.batch=8", "--config.train.batch=8"),
    *("--config.dense.epochs=0.0002", "--config.dense.warmup_epochs=0"),
    *("--config.search.penalty=5.0", "--config.search.vote_every=1", "--config.search.batch=8"),
]
OTHERS = {"start", "allocations", "attention_share", "faults", "long_run"}
# Module -> arguments of a run of seconds, and what it prints.
RUNS = {
    "masks": (["--rounds=1", "--shrink=1000"], "mask / copy"),
    "steps": (SMALL, "| SR-STE |"),
    "compiling": ([*SMALL, "--m", "4"], "| search, M = 4 |"),
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


@pytest.mark.slow
def test_allocations_and_the_share_of_attention(tmp_path):
    flags = [f"--folder={tmp_path}", "--seeds=1", *TINY_BYTES]
    short = ["--config.train.epochs=0.0002", "--config.train.warmup_epochs=0"]
    config = "--config=configs/stdlib_bytes.py"
    printed = run(
        "allocations", config, "--metric=loss", *flags, *short, "--methods", "domino", timeout=600
    )
    assert "| domino 2:16 |" in printed
    assert "| attention 6:16, MLP 3:16 |" in run("attention_share", *flags, *short, timeout=600)


@pytest.mark.slow
def test_runs_that_are_killed():
    printed = run("faults", "--runs=2", timeout=900)
    assert "| search | 2 of 2 |" in printed
    assert "| train | 2 of 2 |" in printed


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

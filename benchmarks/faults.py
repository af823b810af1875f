"""Kills search.py and train.py at random moments; all must end in the bits of a run left alone.

    python -m benchmarks.faults --runs=40

Of each script so many runs: each is killed one to three times, by SIGKILL or SIGTERM, at any moment
or while it saves, and then ends. The network is that of tests/tiny.py: about five seconds a start,
so 40 + 40 runs take about half an hour on two cores.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.clock import machine, print_table
from domino_jax.run import checkpoint, manifest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "tiny.py"
PHASES = {"search": ("dense", "search"), "train": ("train", "train/sparse")}
FILES = {"search": ("scheme.json", "search/votes.jsonl", "report.png"), "train": ("results.json",)}
# Done; stopped and saved; by default, before Python has taken the signal; killed.
CODES = (0, 75, -signal.SIGTERM, -signal.SIGKILL)
LATE = "not in time"
AT_MOST = 600.0  # seconds of one start


def start(script: str, folder: Path, *, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Starts a script on the tiny network, under a command such as prlimit."""
    # Its own cache: a killed process may leave half of a program there.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{CONFIG.parent}",
    }
    command = [*under, sys.executable, f"{script}.py", f"--config={CONFIG}", f"--workdir={folder}"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], allowed: tuple[int, ...] = (0,)) -> int:
    """Waits for a process; returns its exit code.

    Raises:
        RuntimeError: another one than those allowed.
    """
    _, said = process.communicate(timeout=AT_MOST)
    if process.returncode not in allowed:
        raise RuntimeError(f"a script ended with exit code {process.returncode}: {said}")
    return process.returncode


def digest(folder: Path, script: str) -> str:
    """Returns a digest of all that a script leaves, but for the clocks."""
    content = hashlib.sha256()
    for phase in PHASES[script]:
        step = checkpoint.latest(folder / phase)
        content.update(f"{phase} {step}".encode())
        leaves = manifest.read(folder / phase / str(step)).leaves
        template = {path: np.empty(spec.shape, spec.dtype) for path, spec in leaves.items()}
        for path, array in checkpoint.restore(folder / phase, template).items():
            content.update(path.encode() + array.tobytes())
    for name in FILES[script]:
        content.update((folder / name).read_bytes())
    return content.hexdigest()


def kill(script: str, folder: Path, seconds: float, draw: random.Random) -> str:
    """Starts a script and kills it at a moment; returns how."""
    number = draw.choice((signal.SIGKILL, signal.SIGTERM))
    moment = draw.choice(("at any time", "in a save"))
    process = start(script, folder)
    began = time.monotonic()
    until = began + draw.uniform(0, seconds)
    if moment == "in a save":
        saves = draw.randint(1, 4)
        until = began + AT_MOST
        seen: set[Path] = set()
        while process.poll() is None and len(seen) < saves:
            with suppress(OSError):  # folders go while they are looked through
                seen.update(folder.glob("**/*.new"))
            time.sleep(0.002)
        until = time.monotonic() + draw.uniform(0, 0.05)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(number)
    code = end(process, CODES)
    return f"{number.name}, {moment}" if code != 0 else LATE


def runs_of(script: str, folder: Path, whole: Path, runs: int, draw: random.Random) -> Counter[str]:
    """Kills and ends runs of a script; returns how often which kill was made.

    Raises:
        RuntimeError: a run ends otherwise than the one that was left alone.
    """
    source = folder / f"before {script}"
    if script == "train":
        shutil.copytree(whole, source)
    end(start(script, whole))
    expected = digest(whole, script)
    kills: Counter[str] = Counter()
    seconds, run = 0.0, 0  # those of a run whose programs are compiled
    while run <= runs:
        place = folder / f"{script} {run}"
        if script == "train":
            shutil.copytree(source, place)
        began, made = time.monotonic(), []
        if run:
            made = [kill(script, place, seconds, draw) for _ in range(draw.randint(1, 3))]
        end(start(script, place))
        seconds = seconds or time.monotonic() - began
        if digest(place, script) != expected:
            raise RuntimeError(f"{script}, run {run}: it ends in other bits; see {place}")
        shutil.rmtree(place)
        kills.update(made)
        if run and set(made) == {LATE}:  # it was over before its kills, and does not count
            continue
        print(f"{script}: {run} of {runs} end in the same bits", file=sys.stderr, flush=True)
        run += 1
    return kills


def main() -> None:
    """Prints the table; keeps the folder of a run that ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=40, help="of each script")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; drawn by default")
    flags = parser.parse_args()
    seed = random.randrange(1 << 32) if flags.seed is None else flags.seed
    print(machine())
    print(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="faults"))
    rows = []
    for script in PHASES:
        draw = random.Random(f"{seed} {script}")
        kills = runs_of(script, folder, folder / "whole", flags.runs, draw)
        told = ", ".join(f"{count} {what}" for what, count in sorted(kills.items()))
        rows.append([script, f"{flags.runs} of {flags.runs}", told])
    print_table(["script", "the same bits", "kills"], rows)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

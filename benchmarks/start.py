"""Times how long the scripts take to answer --help and to make their first step on the digits.

    python -m benchmarks.start

Each start is a new process. Cold: its home directory has no compiled programs; warm: the run
before left them. A phase opens its TensorBoard events with what it logs after its first step.
Where PyTorch is installed TensorBoard's writer imports it, a second of each of these starts: take
an environment of requirements.txt alone. Three minutes on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.clock import machine, print_table, spread

CONFIG = ["--config=configs/digits.py", "--config.log_every=1"]
ONE_STEP = ["--config.dense.epochs=0.02", "--config.dense.warmup_epochs=0"]
STEPWISE = ["--config.search.method=domino"]  # a search that makes steps
EVENTS = "events.out.*"
ROOT = Path(__file__).parent.parent


def seconds_of_help(script: str) -> float:
    """Returns the wall time of `script --help`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, check=False)
    return time.perf_counter() - start


def seconds_to(folder: Path, pattern: str, arguments: list[str], home: Path) -> float:
    """Starts search.py, waits for a file in `folder` that fits the pattern, and ends it.

    Compiled programs are kept where they are by default, below the home directory.

    Raises:
        RuntimeError: the script ended before.
    """
    command = [sys.executable, "search.py", *CONFIG, *arguments]
    environment = os.environ | {"HOME": str(home)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            while not any(folder.glob(pattern)):
                if process.poll() is not None:
                    said = process.stdout.read().decode() if process.stdout else ""
                    raise RuntimeError(f"{' '.join(command)} ended: {said}")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            process.kill()


def starts(folder: Path, number: int, dense: Path) -> dict[str, float]:
    """Times one cold and one warm start of dense training and of the search."""
    found = {}
    for state in ("cold", "warm"):
        work, home = folder / f"{state}{number}", folder / f"home{number}"
        arguments = [f"--workdir={work}/dense", *ONE_STEP]
        found[f"dense, {state}"] = seconds_to(
            work / "dense/dense", EVENTS, arguments, home / "dense"
        )
        arguments = [f"--workdir={work}/search", f"--config.init={dense}", *STEPWISE]
        started = work / "search/search"
        found[f"search, {state}"] = seconds_to(started, EVENTS, arguments, home / "search")
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(machine())
    for script in ("search.py", "train.py"):  # the first start also writes Python's own cache
        seconds_of_help(script)
    helps = {
        script: np.array([seconds_of_help(script) for _ in range(rounds + 2)])
        for script in ("search.py", "train.py")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [f"--workdir={folder}/first", *ONE_STEP]
        seconds_to(folder / "first", "timing.json", arguments, folder / "first_home")
        all_starts = [starts(folder, i, folder / "first/dense") for i in range(rounds)]
    first = {what: np.array([found[what] for found in all_starts]) for what in all_starts[0]}
    print(f"\ns: median (quartiles) of {rounds} starts\n")
    rows = [[f"{script} --help", spread(times, unit=1), "2"] for script, times in helps.items()]
    for what, times in first.items():
        cold = np.median(first[what.replace("warm", "cold")])
        goal = "15" if what.endswith("cold") else f"{cold / 2:.1f} (half of cold)"
        rows.append([f"first step: {what}", spread(times, unit=1), goal])
    print_table(["start", "s", "goal"], rows)


if __name__ == "__main__":
    main()

"""A search of very many steps: does its memory grow, do its steps get slower?

    python -m benchmarks.long_run --steps=200000

The network of tests/tiny.py; votes, logs, events and checkpoints as in any run, as often as by
default; nothing decays, so that the search never ends by itself. Memory is asked for a hundred
times; its slope is that of a line through the later 90 of them.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.clock import machine, print_table
from domino_jax.run import config_file, experiment, search, workdir
from domino_jax.run.kinds import LARGEST_COUNT
from domino_jax.train import loop

CONFIG = Path(__file__).parents[1] / "tests" / "tiny.py"
PARTS = 100
LARGEST_SLOPE = 1.0  # MB in 10,000 steps
SLOWER = 1.2  # the last tenth of the steps, against the second


def resident() -> float:
    """Returns the resident memory of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status does not say VmRSS")


def measured(steps: int, folder: Path) -> np.ndarray:
    """Makes the steps; returns rows of (step, seconds, MB)."""
    sys.path.insert(0, str(CONFIG.parent))
    config = config_file.load(str(CONFIG))
    config.log_every, config.checkpoint_every = 50, 1000
    config.search.update(penalty=0.0, vote_every=10, max_steps=steps, patience=LARGEST_COUNT)
    asked, rows = 0, []

    def should_stop() -> bool:
        nonlocal asked
        if (folder / "search").is_dir():
            if asked % max(steps // PARTS, 1) == 0:
                rows.append((asked, time.perf_counter(), resident()))
            asked += 1
        return False

    exp = experiment.build(config, folder, should_stop)
    with workdir.locked(folder), contextlib.suppress(loop.Stuck):  # after the last step
        search.find_scheme(exp)
    return np.array(rows)


def main() -> None:
    """Prints the figures; fails where memory grows or steps get slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=200_000)
    steps = parser.parse_args().steps
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        step, seconds, memory = measured(steps, Path(folder)).T
    later = slice(len(step) // 10, None)
    slope = np.polyfit(step[later], memory[later], 1)[0] * 10_000
    tenths = np.array_split(np.arange(len(step)), 10)
    milliseconds = [
        1000 * (seconds[part[-1]] - seconds[part[0]]) / (step[part[-1]] - step[part[0]])
        for part in tenths
    ]
    rows = [
        [f"{step[part[0]]:,.0f}", f"{each:.3f}", f"{memory[part[0]]:.1f}"]
        for part, each in zip(tenths, milliseconds, strict=True)
    ]
    print_table(["from step", "ms a step", "MB at first"], rows)
    print(f"resident memory: {slope:+.2f} MB in 10,000 steps, of {steps:,}")
    grows, slows = slope > LARGEST_SLOPE, milliseconds[-1] > SLOWER * milliseconds[1]
    if steps >= 10_000 and (grows or slows):
        sys.exit(f"memory grows: {grows}; steps get slower: {slows}")


if __name__ == "__main__":
    main()

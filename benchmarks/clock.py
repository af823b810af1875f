"""Times functions in turns, and says on what: the other benchmarks share it."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch")
Times = dict[str, np.ndarray]


def in_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> tuple[Times, Times]:
    """Calls every function once a round, so that a slow moment of the machine hits them alike.

    A first round, in which memory is touched and threads start, does not count.

    Returns:
        name -> seconds of each round: on the clock, and of all threads of this process.
    """
    clock: dict[str, list[float]] = {name: [] for name in work}
    cores: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, function in work.items():
            start, start_cores = time.perf_counter(), time.process_time()
            function()
            cores[name].append(time.process_time() - start_cores)
            clock[name].append(time.perf_counter() - start)
    return (
        {name: np.array(seconds[1:]) for name, seconds in clock.items()},
        {name: np.array(seconds[1:]) for name, seconds in cores.items()},
    )


def ratio(times: Times, name: str, base: str) -> float:
    """Returns the median over the rounds of how much longer one function took than another."""
    return float(np.median(times[name] / times[base]))


def spread(seconds: np.ndarray, unit: float = 1e-3, digits: int = 1) -> str:
    """Writes median (first to third quartile), in units of so many seconds."""
    low, middle, high = np.percentile(seconds, (25, 50, 75)) / unit
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def machine() -> str:
    """Names processor, cores, load and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return (
        f"{models[0] if models else platform.processor()}, {cores} cores, "
        f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {', '.join(versions)}"
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table; numbers to the right."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    for row in [header, rule, *rows]:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("| " + " | ".join([first, *others]) + " |")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""

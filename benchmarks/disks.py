"""Runs search.py where its disk fails: one line, and then the bits of a run left alone.

    python -m benchmarks.disks --runs=12

A disk that is full after some of the files of a whole run, or read-only (of memory; only root can
make them); a limit on the size of a file; a work directory that is moved or removed in mid-run.
Each must end with exit code 1 and one line, and once that is mended the same command must end in
the same bits. The network is that of tests/tiny.py.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks import faults
from benchmarks.clock import machine, print_table

_PROGRESS = re.compile(r"(dense training|search) \d+/\d+ |exact finish: ")
Attempt = Callable[[Path, random.Random], None]


def refused(process: subprocess.Popen[str]) -> None:
    """Waits for a process that must end with exit code 1 and one line.

    Raises:
        RuntimeError: it does not.
    """
    _, said = process.communicate(timeout=faults.AT_MOST)
    lines = [line for line in said.splitlines() if not _PROGRESS.match(line)]
    if process.returncode != 1 or len(lines) != 1:
        raise RuntimeError(f"expected exit code 1 and one line, got {process.returncode}: {said}")


def mount(place: Path, options: str) -> None:
    """Mounts a disk of memory, or mounts it again with other options."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """Has a disk of memory at a place."""
    place.mkdir()
    mount(place, options)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def full(size: int, place: Path, draw: random.Random) -> None:
    """The disk is full after some part of the bytes that a whole run leaves."""
    mount(place, f"remount,size={max(int(size * draw.uniform(0.02, 0.95)), 8192)}")
    refused(faults.start("search", place))
    mount(place, "remount,size=64m")


def read_only(place: Path, draw: random.Random) -> None:
    """The disk cannot be written."""
    del draw
    mount(place, "remount,ro")
    refused(faults.start("search", place))
    mount(place, "remount,rw")


def limited(largest: int, place: Path, draw: random.Random) -> None:
    """No file may have as many bytes as the largest of a whole run."""
    size = int(largest * draw.uniform(0.02, 0.95))
    refused(faults.start("search", place, under=("prlimit", f"--fsize={size}")))


def gone(take: Callable[[Path], None], place: Path, draw: random.Random) -> None:
    """The work directory goes when some steps are saved."""
    steps, saved = draw.randint(1, 4), 0
    process = faults.start("search", place)
    while process.poll() is None and saved < steps:
        with suppress(OSError):  # folders go while they are looked through
            saved = len(list(place.glob("*/*/leaves.json")))
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.2))
    took_place = process.poll() is None
    take(place)
    if not took_place:
        raise RuntimeError("the run ended before its directory went")
    refused(process)


def moved(place: Path) -> None:
    """Moves a work directory; what the next start makes is another."""
    place.rename(place.with_name(f"{place.name} moved"))


def attempts(size: int, largest: int) -> dict[str, tuple[Attempt, str]]:
    """Lists the faults: name -> (what makes it, options of a disk of its own or '')."""
    by_root: dict[str, tuple[Attempt, str]] = {
        "full disk": (partial(full, size), "size=64m"),
        "read-only disk": (read_only, "size=64m"),
    }
    return (by_root if os.getuid() == 0 else {}) | {
        "limit on the size of a file": (partial(limited, largest), ""),
        "directory moved in mid-run": (partial(gone, moved), ""),
        "directory removed in mid-run": (partial(gone, shutil.rmtree), ""),
    }


def row(
    name: str, attempt: Attempt, disk: str, runs: int, folder: Path, expected: str, seed: str
) -> list[str]:
    """Makes a fault several times; returns the row of the table.

    Raises:
        RuntimeError: a run ends otherwise than it must.
    """
    draw = random.Random(f"{seed} {name}")
    for run in range(runs):
        place = folder / f"{name} {run}"
        if disk:
            with small_disk(place, disk):
                attempt(place, draw)
                faults.end(faults.start("search", place))
                same = faults.digest(place, "search") == expected
        else:
            attempt(place, draw)
            faults.end(faults.start("search", place))
            same = faults.digest(place, "search") == expected
        if not same:
            raise RuntimeError(f"{name}, run {run}: it ends in other bits")
        shutil.rmtree(place)
        print(f"{name}: {run + 1} of {runs}", file=sys.stderr, flush=True)
    return [name, f"{runs} of {runs}", f"{runs} of {runs}"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "faults", nargs="*", help="by the beginnings of their names; all by default"
    )
    parser.add_argument("--runs", type=int, default=12, help="of each fault")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; drawn by default")
    flags = parser.parse_args()
    seed = random.randrange(1 << 32) if flags.seed is None else flags.seed
    print(machine())
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="disks") as place:
        folder = Path(place)
        whole = folder / "whole"
        faults.end(faults.start("search", whole))
        expected = faults.digest(whole, "search")
        sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        rows = [
            row(name, attempt, disk, flags.runs, folder, expected, str(seed))
            for name, (attempt, disk) in attempts(sum(sizes), max(sizes)).items()
            if name.startswith(tuple(flags.faults) or "")
        ]
    print_table(["fault", "exit code 1 and one line", "then the same bits"], rows)


if __name__ == "__main__":
    main()

"""Coverage-guided fuzzing of every parser of a user's file: python -m tests.fuzz --runs=1000000.

Each target runs in a process of its own, in which nothing may be raised but an InputError, no
input may take ten seconds or more than 512 MB; what does is kept under fuzz/. Needs atheris.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# It tells of every module.
with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["domino_jax"]):
    from tests.fuzz.targets import TARGETS, InputError

MEGABYTES = 512
SECONDS = 10
BYTES = 4096  # of an input
FAULTS = ROOT / "fuzz"


def fuzz(name: str, runs: int, folder: Path) -> None:
    """Tries inputs of one target; ends the process."""
    seeds, read = TARGETS[name]
    for number, seed in enumerate(seeds):
        (folder / str(number)).write_bytes(seed)

    def try_one(data: bytes) -> None:
        with contextlib.suppress(InputError):
            read(data)

    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = {
        "runs": runs,
        "max_len": BYTES,
        "timeout": SECONDS,
        "rss_limit_mb": before + MEGABYTES,
        "seed": 1,
        "artifact_prefix": f"{FAULTS}/{name}-",
    }
    atheris.Setup(
        ["fuzz", *(f"-{key}={value}" for key, value in limits.items()), str(folder)], try_one
    )
    atheris.Fuzz()


def run(name: str, runs: int) -> bool:
    """Fuzzes one target in a child process; says whether all went well."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        child = os.fork()
        if not child:
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            fuzz(name, runs, corpus)
            os._exit(1)  # `Fuzz` does not return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        lines = log.read_text(errors="replace").splitlines()
        found = len(list(corpus.iterdir()))
    rate = runs / (time.perf_counter() - began)
    verdict = "nothing but InputErrors" if code == 0 else f"failed with exit code {code}"
    print(
        f"{name}: {runs:,} runs, {rate:,.0f} a second, {found} inputs kept: {verdict}", flush=True
    )
    if code:
        print(*lines[-40:], sep="\n", file=sys.stderr)
    return code == 0


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"some of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs of each target")
    flags = parser.parse_args()
    for name in flags.targets:
        if name not in TARGETS:
            parser.error(f"expected some of {', '.join(TARGETS)}, got {name!r}")
    FAULTS.mkdir(exist_ok=True)
    done = [run(name, flags.runs) for name in flags.targets or TARGETS]
    if not any(FAULTS.iterdir()):
        shutil.rmtree(FAULTS)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Compares allocations at equal weights: dense, uniform N:M and the search's, over several seeds.

    python -m benchmarks.allocations --config=configs/glyphs.py

For each seed train.py trains the dense network and fine-tunes 4:16 and 2:16 in every layer that can
be grouped (75 and 87.5 % of these weights removed); then search.py looks for a mixed scheme under
the weights that each of them keeps, and train.py fine-tunes it from the same dense weights. Every
run is a process of its own, resumes if it is stopped, and is not repeated if it is done. Further
flags, such as --config.search.rules="(('^fc/','dense'),)", go to every run; give them a --folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clock import machine, print_table

ROOT = Path(__file__).parent.parent
M = 16
UNIFORM = (4, 2)  # N of the baselines
METHODS: Mapping[str, Mapping[str, str]] = {
    "erk": {"search.method": "erk"},
    "domino": {"search.method": "domino"},
    "constant": {"search.method": "domino", "search.pace": "constant"},  # all layers decay alike
    "every_n": {  # not powers of two only
        "search.method": "domino",
        "search.candidates": f"({','.join(map(str, range(1, M + 1)))})",
    },
}
DEFAULT = ("erk", "domino")
Results = dict[str, dict[str, Any]]


def run(script: str, config: str, workdir: Path, overrides: Mapping[str, Any]) -> None:
    """Runs search.py or train.py to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, script, f"--config={config}", f"--workdir={workdir}", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def both(config: str, workdir: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Runs search.py and train.py unless that is done; returns results and times."""
    results = workdir / "results.json"
    if not (results.exists() and "train" in json.loads(results.read_text())):
        print(f"{workdir}", file=sys.stderr)
        run("search.py", config, workdir, overrides)
        run("train.py", config, workdir, overrides)
    timing = workdir / "timing.json"
    return json.loads(results.read_text()) | {"seconds": json.loads(timing.read_text())}


def compare(
    config: str, folder: Path, seed: int, methods: Sequence[str], common: Mapping[str, Any]
) -> Results:
    """Makes the runs of one seed, all with some overrides; {method and uniform N:M: results}."""
    found: Results = {}
    common = {"seed": seed, **common}
    init: dict[str, Any] = {}
    for n in UNIFORM:
        fixed = {**common, "search.method": "uniform", **init}
        # Of two candidates only n of M is below a budget of almost everything.
        fixed |= {"search.candidates": f"({n},{M})", "search.budget": 0.999}
        workdir = folder / f"seed{seed}_{n}of{M}_uniform"
        found[f"uniform {n}:{M}"] = both(config, workdir, fixed)
        if not init:
            init = {"init": folder / f"seed{seed}_{n}of{M}_uniform" / "dense"}
        kept = found[f"uniform {n}:{M}"]["search"]["totals"]["weights"]
        budget = (kept["scheme"] + 0.5) / kept["dense"]
        for method in methods:
            overrides = {**common, "search.budget": budget, **METHODS[method], **init}
            workdir = folder / f"seed{seed}_{n}of{M}_{method}"
            found[f"{method} {n}:{M}"] = both(config, workdir, overrides)
    return found


def shown(values: Iterable[float], scale: float, unit: str) -> str:
    """Writes mean and standard deviation of the seeds."""
    values = [scale * value for value in values]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    places = 2 if scale > 1 else 3
    return f"{statistics.mean(values):.{places}f} ± {spread:.{places}f}{unit}"


def rows(results: Sequence[Results], metric: str) -> list[list[str]]:
    """Makes the rows of the table from the results of each seed."""
    scale, unit = (100.0, " %") if metric == "accuracy" else (1.0, "")
    first = next(iter(results[0]))
    dense = [seed[first]["train"]["dense"][metric] for seed in results]
    made = [["dense", "100 %", "-", shown(dense, scale, unit), "-"]]
    for name in results[0]:
        trained = [seed[name]["train"] for seed in results]
        baseline = f"uniform {name.split()[1]}"
        gains = [
            seed[name]["train"]["tuned"][metric] - seed[baseline]["train"]["tuned"][metric]
            for seed in results
        ]
        kept = statistics.mean(result["shares"]["weights"] for result in trained)
        made.append(
            [
                name,
                f"{kept:.2%}",
                shown((_masked(result)[metric] for result in trained), scale, unit),
                shown((result["tuned"][metric] for result in trained), scale, unit),
                "-" if name == baseline else shown(gains, scale, unit),
            ]
        )
    return made


def _masked(trained: Mapping[str, Any]) -> Mapping[str, float]:
    """Picks the evaluation of the masked dense weights; batch statistics are recalibrated."""
    return trained.get("recalibrated", trained["masked"])


def times(results: Sequence[Results]) -> str:
    """Says how long the phases took at most."""
    longest: dict[str, float] = {}
    for run_ in (run_ for seed in results for run_ in seed.values()):
        for phase, values in run_["seconds"].items():
            longest[phase] = max(longest.get(phase, 0.0), values["seconds"])
    return ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in longest.items())


def overrides_of(flags: Iterable[str]) -> dict[str, str]:
    """Reads flags --config.key=value; {key: value}.

    Raises:
        SystemExit: a flag has another form.
    """
    found = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not key.startswith("--config.") or not equals:
            raise SystemExit(f"--config.KEY=VALUE is wanted, got {flag!r}")
        found[key.removeprefix("--config.")] = value
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", required=True)
    parser.add_argument("--folder", type=Path, help="default runs/allocations/<config name>")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT)
    parser.add_argument("--metric", choices=("accuracy", "loss"), default="accuracy")
    flags, others = parser.parse_known_args()
    folder = flags.folder or Path("runs/allocations") / Path(flags.config).stem
    common = overrides_of(others)
    results = [
        compare(flags.config, folder.absolute(), seed, flags.methods, common)
        for seed in range(flags.seeds)
    ]
    print(machine())
    print(f"\nmean ± standard deviation of {flags.seeds} seeds; longest phases: {times(results)}\n")
    heads = ["allocation", "weights", "masked without training", "fine-tuned", "over uniform"]
    print_table(heads, rows(results, flags.metric))


if __name__ == "__main__":
    main()

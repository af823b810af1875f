"""Times compiling the steps and reads their memory from the compiler's own analysis.

    python -m benchmarks.compiling

ResNet-50 at M = 16 and 32, 64x64, batch 64, donated states. Tracing counts as compiling; every
round compiles anew, without the persistent cache. Memory is arguments + temporaries + outputs -
what the outputs share with the donated arguments. Six minutes on two cores.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from benchmarks.networks import Bench, steps

PAIRS = (("search", "dense for search"), ("SR-STE", "dense for SR-STE"))
GOALS = {16: "ratio 2", 32: "60 s"}


def compiling(bench: Bench, memory: dict[str, float], name: str) -> Callable[[], None]:
    """Returns a function that traces and compiles a step anew, and notes its memory."""
    state = jax.eval_shape(bench.state)

    def call() -> None:
        jax.clear_caches()
        lowered = bench.make().lower(state, bench.control, bench.batch, bench.key)
        memory[name] = megabytes(lowered.compile())

    return call


def megabytes(compiled: Any) -> float:
    """Returns what a compiled step needs at its peak."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
    return (held - found.alias_size_in_bytes) / 1e6


def rows_of(args: argparse.Namespace, m: int) -> tuple[list[list[str]], list[list[str]]]:
    """Measures one group size: rows of the table of times and of the table of memory."""
    benches, weights = steps(args.model, m, args.size, args.batch)
    memory: dict[str, float] = {}
    work = {name: compiling(bench, memory, name) for name, bench in benches.items()}
    times, cores = in_turns(work, args.rounds)
    allowed = weights * (4 / m + 1 + 4) / 1e6
    time_rows, memory_rows = [], []
    for name, dense in PAIRS:
        row = [f"{name}, M = {m}", spread(times[dense], unit=1), spread(times[name], unit=1)]
        row += [f"{ratio(seconds, name, dense):.2f}" for seconds in (times, cores)]
        time_rows.append([*row, GOALS.get(m, "-") if name == "search" else "-"])
        more = memory[name] - memory[dense]
        row = [f"{name}, M = {m}", f"{memory[dense]:.0f}", f"{memory[name]:.0f}", f"{more:.0f}"]
        memory_rows.append([*row, f"{allowed:.0f}", f"{more * 1e6 / weights:.2f}"])
    return time_rows, memory_rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--m", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(machine())
    time_rows, memory_rows = [], []
    for m in args.m:
        time_rows_of_m, memory_rows_of_m = rows_of(args, m)
        time_rows += time_rows_of_m
        memory_rows += memory_rows_of_m
    print(f"\n{args.model}; compiling, s: median (quartiles) of {args.rounds} rounds\n")
    header = ["step", "dense", "sparse"]
    print_table([*header, "sparse / dense", "in core seconds", "goal"], time_rows)
    print(f"\npeak memory, MB ({args.size}x{args.size}, batch {args.batch})\n")
    print_table([*header, "more", "goal: at most", "bytes per weight"], memory_rows)


if __name__ == "__main__":
    main()

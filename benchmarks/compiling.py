"""Times compiling the steps and reads their memory from the compiler's own analysis.

    python -m benchmarks.compiling

ResNet-50 at M = 16 and 32, 64x64, batch 64, donated states. Tracing counts as compiling; every
round compiles anew, without the persistent cache. Memory is arguments + temporaries + outputs -
what the outputs share with the donated arguments. Eight minutes on two cores.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from benchmarks.networks import Bench, steps

PAIRS = (("search", "dense for search"), ("SR-STE", "dense for SR-STE"))
GOALS = {16: "ratio 2", 32: "60 s"}


def compiling(bench: Bench) -> Callable[[], Any]:
    """Returns a function that traces and compiles a step anew."""
    state = jax.eval_shape(bench.state)

    def call() -> Any:
        jax.clear_caches()
        return bench.make().lower(state, bench.control, bench.batch, bench.key).compile()

    return call


def megabytes(compiled: Any) -> float:
    """Returns what a compiled step needs at its peak."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
    return (held - found.alias_size_in_bytes) / 1e6


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--m", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine())
    times_rows, memory_rows = [], []
    for m in args.m:
        benches, weights = steps(args.model, m, args.size, args.batch)
        work = {name: compiling(bench) for name, bench in benches.items()}
        memory = {name: megabytes(compile_()) for name, compile_ in work.items()}
        times, cores = in_turns(work, args.rounds)
        allowed = weights * (4 / m + 1 + 4) / 1e6
        for name, dense in PAIRS:
            times_rows.append(
                [
                    f"{name}, M = {m}",
                    spread(times[dense], unit=1),
                    spread(times[name], unit=1),
                    f"{ratio(times, name, dense):.2f}",
                    f"{ratio(cores, name, dense):.2f}",
                    GOALS.get(m, "-") if name == "search" else "-",
                ]
            )
            more = memory[name] - memory[dense]
            memory_rows.append(
                [
                    f"{name}, M = {m}",
                    f"{memory[dense]:.0f}",
                    f"{memory[name]:.0f}",
                    f"{more:.0f}",
                    f"{allowed:.0f}",
                    f"{more * 1e6 / weights:.2f}",
                ]
            )
    print(f"\n{args.model}; compiling, s: median (quartiles) of {args.rounds} rounds\n")
    header = ["step", "dense", "sparse"]
    print_table([*header, "sparse / dense", "in core seconds", "goal"], times_rows)
    print(f"\npeak memory, MB ({args.size}x{args.size}, batch {args.batch})\n")
    print_table([*header, "more", "goal", "bytes per weight"], memory_rows)


if __name__ == "__main__":
    main()

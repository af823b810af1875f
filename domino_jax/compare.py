"""Compares methods, trainers and budgets over several seeds.

    python -m domino_jax.compare --config=configs/digits.py --methods=uniform,erk --budgets=2:16

A budget is a share of the dense cost, or N:M: what that N:M in every layer costs. Every cell (seed,
budget, method, trainer) is a work directory of its own; the same command goes on where it stopped.
"""

from pathlib import Path
from typing import Any

from domino_jax.run import signals

METHODS = "Values of search.method; unstructured_METHOD: its shares of each layer, no N:M."


def main() -> None:
    """Parses the flags and runs the comparison."""
    stops = signals.catch_signals()  # before all that takes its time to import
    from absl import flags  # noqa: PLC0415 (as above)

    from domino_jax.run import command_line  # noqa: PLC0415

    methods = flags.DEFINE_list("methods", ["uniform", "erk", "domino"], METHODS)
    trainers = flags.DEFINE_list("trainers", ["sr_ste"], "Values of train.method.")
    budgets = flags.DEFINE_list("budgets", ["2:16"], "Shares of the dense cost, or N:M.")
    seeds = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, …: how many.")
    metric = flags.DEFINE_string("metric", "", "Of table and front: accuracy, loss, top5.")

    def work(config: Any, workdir: Path, should_stop: Any, anew: bool) -> None:
        from domino_jax.core.errors import InputError  # noqa: PLC0415
        from domino_jax.run import comparison  # noqa: PLC0415

        if anew:
            raise InputError("--anew: expected a --workdir of its own for another comparison")
        cells = comparison.cells_of(seeds.value, budgets.value, methods.value, trainers.value)
        comparison.compare(config, workdir, cells, should_stop, metric=metric.value)

    more = (methods, trainers, budgets, seeds, metric)
    command_line.main(work, stops, parent="runs/compare", more=more)


if __name__ == "__main__":
    main()

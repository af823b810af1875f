"""What a person reads of a comparison: compare.csv and the table; `comparison_pictures` draws it.

A `Cell` says what was run, an `Outcome` what came of it; everything here is a function of these.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from domino_jax.core.files import write_text
from domino_jax.run import monitor

# Dense, masked (with recalibrated batch statistics, where there are any), fine-tuned.
STAGES = ("dense", "masked", "tuned")
UNSTRUCTURED = "unstructured_"  # before a method: its densities, the zeros wherever they fall
SHARES = ("accuracy", "top5")  # metrics that are shares: shown in %


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        seed: of everything.
        budget: as it was asked for, such as '0.125' or '2:16'.
        method: what found the scheme.
        trainer: what trained it.
    """

    seed: int
    budget: str
    method: str
    trainer: str


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        cell: what was run.
        kept: share of the dense cost that the scheme keeps, by 'cost', 'weights' and 'macs'.
        metrics: stage -> metric -> value, for the stages that there are.
        n_of_m: layer -> (n, m), in the order of first use; dense layers have n == m.
    """

    cell: Cell
    kept: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    n_of_m: Mapping[str, tuple[int, int]]


def write_csv(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a line for each cell: what was run, what is kept, every metric of every stage."""
    columns = sorted(
        {
            f"{stage}_{metric}"
            for outcome in outcomes
            for stage, metrics in outcome.metrics.items()
            for metric in metrics
        }
    )
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    kept = ("cost", "weights", "macs")
    lines.writerow(["seed", "budget", "method", "trainer", *(f"kept_{k}" for k in kept), *columns])
    for outcome in outcomes:
        cell = outcome.cell
        values = {
            f"{stage}_{metric}": value
            for stage, metrics in outcome.metrics.items()
            for metric, value in metrics.items()
        }
        shares = [outcome.kept[k] for k in kept]
        measured = [values.get(column, "") for column in columns]
        lines.writerow([cell.seed, cell.budget, cell.method, cell.trainer, *shares, *measured])
    write_text(path, text.getvalue())


def table(outcomes: Sequence[Outcome], metric: str) -> Table:
    """Makes the table: mean and deviation over the seeds of what is kept and of each stage.

    The last column is what a method gains over the first one, seed by seed.
    """
    groups = by_cell(outcomes)
    first = outcomes[0].cell.method
    caption = "masked: without training; batch statistics, where there are any, measured anew"
    summary = Table(show_edge=False, header_style="bold", pad_edge=False, caption=caption)
    for title in ("budget", "method", "trainer"):
        summary.add_column(title, no_wrap=True)
    for title in ("kept", *STAGES, f"over {short(first)}"):
        summary.add_column(title, justify="right", no_wrap=True)
    before = outcomes[0].cell.budget
    for (budget, method, trainer), group in groups.items():
        if budget != before:
            summary.add_section()
            before = budget
        stages = [
            _spread([o.metrics[stage][metric] for o in group if stage in o.metrics], metric)
            for stage in STAGES
        ]
        kept = f"{statistics.mean(o.kept['cost'] for o in group):.2%}"
        gains = _gains(group, groups.get((budget, first, trainer), []), metric)
        gained = "-" if method == first else _spread(gains, metric)
        summary.add_row(
            budget,
            *(monitor.cell(short(name)) for name in (method, trainer)),
            kept,
            *stages,
            gained,
        )
    return summary


def _gains(group: Sequence[Outcome], others: Sequence[Outcome], metric: str) -> list[float]:
    """Subtracts the fine-tuned metric of another method, where both have it of a seed."""
    before = {o.cell.seed: o.metrics["tuned"][metric] for o in others if "tuned" in o.metrics}
    return [
        o.metrics["tuned"][metric] - before[o.cell.seed]
        for o in group
        if "tuned" in o.metrics and o.cell.seed in before
    ]


def short(name: str) -> str:
    """Returns the function alone of 'package.module:function'."""
    before, _, function = name.rpartition(":")
    return UNSTRUCTURED + function if before.startswith(UNSTRUCTURED) else function


def by_cell(outcomes: Sequence[Outcome]) -> dict[tuple[str, str, str], list[Outcome]]:
    """Gathers the seeds of a budget, method and trainer, in the order in which they came."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        groups.setdefault((cell.budget, cell.method, cell.trainer), []).append(outcome)
    return groups


def is_share(metric: str) -> bool:
    """Says whether a metric is shown in %."""
    return metric in SHARES


def _spread(values: Sequence[float], metric: str) -> str:
    """Writes mean ± standard deviation; one seed has no deviation."""
    if not values:
        return "-"
    scale, digits, unit = (100.0, 2, " %") if is_share(metric) else (1.0, 3, "")
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return f"{mean}{unit}"
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}{unit}"

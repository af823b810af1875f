"""What a person sees of a comparison: compare.csv, the table, the front and the map of N:M.

A `Cell` says what was run, an `Outcome` what came of it; everything here is a function of these.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from domino_jax.core.files import replacing, write_text
from domino_jax.run.report import shortened

# Dense, masked (with recalibrated batch statistics, where there are any), fine-tuned.
STAGES = ("dense", "masked", "tuned")
MARKERS = "osD^vPX*<>hp"
STYLES = ("-", "--", "-.", ":")


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
    """Makes the table: mean and deviation over the seeds of what is kept and of each stage."""
    summary = Table(show_edge=False, header_style="bold", pad_edge=False)
    for title in ("budget", "method", "trainer"):
        summary.add_column(title, no_wrap=True)
    for title in ("kept", *STAGES):
        summary.add_column(title, justify="right", no_wrap=True)
    for (budget, method, trainer), group in _groups(outcomes).items():
        cells = [
            _spread([o.metrics[stage][metric] for o in group if stage in o.metrics], metric)
            for stage in STAGES
        ]
        kept = f"{statistics.mean(o.kept['cost'] for o in group):.2%}"
        summary.add_row(budget, method, trainer, kept, *cells)
    return summary


def _groups(outcomes: Sequence[Outcome]) -> dict[tuple[str, str, str], list[Outcome]]:
    """Gathers the seeds of a budget, method and trainer, in the order in which they came."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        groups.setdefault((cell.budget, cell.method, cell.trainer), []).append(outcome)
    return groups


def _spread(values: Sequence[float], metric: str) -> str:
    """Writes mean ± standard deviation; one seed has no deviation."""
    if not values:
        return "-"
    share = metric in ("accuracy", "top5")
    scale, digits, unit = (100.0, 2, " %") if share else (1.0, 3, "")
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return f"{mean}{unit}"
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}{unit}"


def draw_front(path: Path, outcomes: Sequence[Outcome], metric: str, title: str) -> None:
    """Draws the fine-tuned metric against what is kept: a line a method, a band its deviation.

    Methods differ in marker and line style too, so that the picture can be read in grey. The dense
    network is a horizontal line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (0.3 s to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines: dict[tuple[str, str], list[list[Outcome]]] = {}
    for (_, method, trainer), group in _groups(outcomes).items():
        lines.setdefault((method, trainer), []).append(group)
    one_trainer = len({trainer for _, trainer in lines}) == 1
    for place, ((method, trainer), groups) in enumerate(lines.items()):
        points = sorted(_point(group, metric) for group in groups if "tuned" in group[0].metrics)
        if not points:
            continue
        x, y, spread = ([point[i] for point in points] for i in range(3))
        style: dict[str, Any] = {
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": STYLES[place % len(STYLES)],
            "color": f"C{place % 10}",
        }
        axes.plot(x, y, label=_plain(method if one_trainer else f"{method}, {trainer}"), **style)
        low, high = ([b + sign * s for b, s in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    dense = [o.metrics["dense"][metric] for o in outcomes if "dense" in o.metrics]
    if dense:
        axes.axhline(statistics.mean(dense), color="black", linewidth=1, label="dense")
    axes.set(xlabel="% of the dense cost that is kept", ylabel=f"{metric} after fine-tuning")
    axes.set_title(_plain(title))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _point(group: Sequence[Outcome], metric: str) -> tuple[float, float, float]:
    values = [outcome.metrics["tuned"][metric] for outcome in group]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    kept = 100 * statistics.mean(outcome.kept["cost"] for outcome in group)
    return kept, statistics.mean(values), deviation


def draw_map(path: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """Draws the share that each layer keeps: a column a layer, a row a method and budget.

    The mean over the seeds, dark where much is kept; on few layers the N itself stands in it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.cell.budget, outcome.cell.method), []).append(outcome)
    layers = list(outcomes[0].n_of_m)
    shares = [
        [statistics.mean(n / m for n, m in (o.n_of_m[layer] for o in group)) for layer in layers]
        for group in rows.values()
    ]
    size = (max(7.0, 3 + 0.3 * len(layers)), 2.5 + 0.35 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, aspect="auto", cmap="Greys", vmin=0, vmax=1)
    names = [_plain(layer.removesuffix("/kernel")) for layer in layers]
    axes.set_xticks(range(len(layers)), names, rotation=90, fontsize=7)
    labels = [_plain(f"{method}, {budget}") for budget, method in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    if len(layers) <= 40:  # more would not be readable
        _write_n(axes, shares, list(rows.values()), layers)
    figure.colorbar(image, ax=axes, label="share of the weights kept", fraction=0.03)
    axes.set_title(_plain(title), fontsize=10)
    _save(figure, path)


def _write_n(
    axes: Any,
    shares: Sequence[Sequence[float]],
    groups: Sequence[Sequence[Outcome]],
    layers: Sequence[str],
) -> None:
    for row, group in enumerate(groups):
        for column, layer in enumerate(layers):
            n = statistics.mean(outcome.n_of_m[layer][0] for outcome in group)
            color = "white" if shares[row][column] > 0.5 else "black"
            text = f"{n:.0f}" if n == int(n) else f"{n:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)


def _plain(text: str) -> str:
    """Keeps a name short, and from being read as a formula or a control character."""
    return shortened(text).replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])

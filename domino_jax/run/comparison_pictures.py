"""The pictures of a comparison: the front (a metric against what is kept), and the map of N:M.

Both can be read in grey: methods differ in marker and line style too, and the colours of the map
grow darker with what is kept.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from domino_jax.core.files import replacing
from domino_jax.run.comparison_report import Outcome, by_cell, is_share, short
from domino_jax.run.report import shortened

MARKERS = "osD^vPX*<>hp"
STYLES = ("-", "--", "-.", ":")
MOST_WITH_NUMBERS = 40  # layers; among more they could not be read
FEWEST_KEPT = 1 / 64  # the largest M


class Point(NamedTuple):
    """What the seeds of one method, trainer and budget have in common."""

    kept: float  # % of the dense cost
    mean: float
    deviation: float


def draw_front(path: Path, outcomes: Sequence[Outcome], metric: str, title: str) -> None:
    """Draws the fine-tuned metric against what is kept; under one budget, one row for each cell.

    The dense network is a line, the deviation over the seeds a band or a bar.
    """
    points = _points(outcomes, metric)
    unit = f"{metric}{' in %' if is_share(metric) else ''} after fine-tuning"
    if max(map(len, points.values()), default=0) > 1:
        figure = _lines(points, outcomes, metric, unit)
    else:
        figure = _rows(points, outcomes, metric, unit)
    figure.axes[0].set_title(_plain(title))
    figure.axes[0].grid(alpha=0.3)
    _save(figure, path)


def _lines(
    points: Mapping[tuple[str, str], list[Point]],
    outcomes: Sequence[Outcome],
    metric: str,
    unit: str,
) -> Any:
    """Draws a line for each method and trainer over the budgets.

    Colour and marker are the method's, the line style is the trainer's where there are several.
    """
    figure, axes = _figure((9.5, 5.5))
    methods, trainers = (list(dict.fromkeys(pair[i] for pair in points)) for i in range(2))
    for (method, trainer), line in points.items():
        place = methods.index(method)
        style = STYLES[(trainers.index(trainer) if len(trainers) > 1 else place) % len(STYLES)]
        label = short(method) if len(trainers) == 1 else f"{short(method)}, {short(trainer)}"
        color, x, y = f"C{place % 10}", [p.kept for p in line], [p.mean for p in line]
        axes.errorbar(
            x,
            y,
            yerr=[p.deviation for p in line] if len(line) == 1 else None,  # a band has no width
            label=_plain(label),
            marker=MARKERS[place % len(MARKERS)],
            markerfacecolor="white" if trainers.index(trainer) % 2 else color,
            linestyle=style,
            color=color,
            capsize=4,
        )
        low, high = ([p.mean + sign * p.deviation for p in line] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    mean, deviation = _dense(outcomes, metric)
    axes.axhline(mean, color="black", linewidth=1, label="dense")
    axes.axhspan(mean - deviation, mean + deviation, color="black", alpha=0.08, linewidth=0)
    _share_axis(axes, sorted({p.kept for line in points.values() for p in line}))
    axes.set(xlabel="% of the dense cost that is kept", ylabel=unit)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _rows(
    points: Mapping[tuple[str, str], list[Point]],
    outcomes: Sequence[Outcome],
    metric: str,
    unit: str,
) -> Any:
    """Draws a row for each method and trainer, which would lie on one another above one budget."""
    figure, axes = _figure((8.0, 1.6 + 0.32 * len(points)))
    methods, trainers = (list(dict.fromkeys(pair[i] for pair in points)) for i in range(2))
    labels = []
    for row, ((method, trainer), (point,)) in enumerate(points.items()):
        place = methods.index(method)
        label = short(method) if len(trainers) == 1 else f"{short(method)}, {short(trainer)}"
        labels.append(_plain(f"{label}  ({point.kept:.1f} %)"))
        axes.errorbar(
            point.mean,
            row,
            xerr=point.deviation,
            marker=MARKERS[place % len(MARKERS)],
            color=f"C{place % 10}",
            capsize=4,
        )
    mean, deviation = _dense(outcomes, metric)
    axes.axvline(mean, color="black", linewidth=1, label="dense")
    axes.axvspan(mean - deviation, mean + deviation, color="black", alpha=0.08, linewidth=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel=unit, ylabel="(% of the dense cost kept)")
    axes.legend(loc="best", frameon=False)
    return figure


def _points(outcomes: Sequence[Outcome], metric: str) -> dict[tuple[str, str], list[Point]]:
    """Gathers (method, trainer) -> its points by what they keep; none of what was not trained."""
    scale = 100.0 if is_share(metric) else 1.0
    points: dict[tuple[str, str], list[Point]] = {}
    for (_, method, trainer), group in by_cell(outcomes).items():
        values = [scale * o.metrics["tuned"][metric] for o in group if "tuned" in o.metrics]
        if values:
            kept = 100 * statistics.mean(outcome.kept["cost"] for outcome in group)
            point = Point(kept, statistics.mean(values), _deviation(values))
            points.setdefault((method, trainer), []).append(point)
    return {pair: sorted(line) for pair, line in points.items()}


def _dense(outcomes: Sequence[Outcome], metric: str) -> tuple[float, float]:
    """Returns mean and deviation of the dense networks, one a seed."""
    scale = 100.0 if is_share(metric) else 1.0
    by_seed = {o.cell.seed: scale * o.metrics["dense"][metric] for o in outcomes}
    return statistics.mean(by_seed.values()), _deviation(list(by_seed.values()))


def _share_axis(axes: Any, kept: Sequence[float]) -> None:
    """Makes halves equally far apart, as budgets are chosen; a tick at each of them."""
    ticks: list[float] = []
    for share in kept:
        if not ticks or share > 1.15 * ticks[-1]:
            ticks.append(share)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw_map(path: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """Draws the share that each layer keeps: a column a layer, a row a method and budget.

    The mean over the seeds, dark where much is kept; on few layers the N itself stands in it.
    """
    from matplotlib.colors import LogNorm  # noqa: PLC0415 (as `_figure`)

    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.cell.budget, outcome.cell.method), []).append(outcome)
    layers = list(outcomes[0].n_of_m)
    shares = [
        [statistics.mean(n / m for n, m in (o.n_of_m[layer] for o in group)) for layer in layers]
        for group in rows.values()
    ]
    few = len(layers) <= MOST_WITH_NUMBERS
    width, height = (0.38 if few else 0.12) * len(layers), 0.3 * len(rows)
    figure, axes = _figure((max(7.0, 3.5 + width), 2.2 + height))
    least = max(min(map(min, shares)), FEWEST_KEPT)
    norm = LogNorm(min(least, 0.5), 1)
    image = axes.imshow(shares, aspect="auto", cmap="viridis_r", norm=norm)
    names = [_plain(layer.removesuffix("/kernel")) for layer in layers]
    axes.set_xticks(range(len(layers)), names, rotation=90, fontsize=8 if few else 6)
    labels = [_plain(f"{short(method)}, {budget}") for budget, method in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    _separate(axes, [budget for budget, _ in rows])
    if few:
        _write_n(axes, norm, shares, list(rows.values()), layers)
    ticks = [share for share in (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1) if share >= least]
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=25)
    bar.set_label("% kept", fontsize=8)  # short: it stands beside one row, too
    bar.set_ticks(ticks, labels=[f"{100 * tick:.3g}" for tick in ticks], fontsize=7)
    bar.set_ticks([], minor=True)
    axes.set_title(_plain(title), fontsize=10)
    _save(figure, path)


def _separate(axes: Any, budgets: Sequence[str]) -> None:
    for row in range(1, len(budgets)):
        if budgets[row] != budgets[row - 1]:
            axes.axhline(row - 0.5, color="white", linewidth=3)


def _write_n(
    axes: Any,
    norm: Any,
    shares: Sequence[Sequence[float]],
    groups: Sequence[Sequence[Outcome]],
    layers: Sequence[str],
) -> None:
    for row, group in enumerate(groups):
        for column, layer in enumerate(layers):
            n = statistics.mean(outcome.n_of_m[layer][0] for outcome in group)
            has_groups = any(outcome.n_of_m[layer][1] > 1 for outcome in group)
            number = f"{n:.0f}" if n == int(n) else f"{n:.1f}"
            axes.text(
                column,
                row,
                number if has_groups else "dense",
                ha="center",
                va="center",
                fontsize=7 if has_groups else 6,
                color="white" if norm(shares[row][column]) > 0.45 else "black",
            )


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (0.3 s to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _plain(text: str) -> str:
    """Keeps a name short, and from being read as a formula or a control character."""
    return shortened(text).replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])

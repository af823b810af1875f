"""What a person sees of a scheme: the table in the terminal and the picture on disk."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from domino_jax.core import costs
from domino_jax.core.costs import Budget, Cost, Number
from domino_jax.core.errors import escaped
from domino_jax.core.files import replacing
from domino_jax.core.layers import LayerSpec
from domino_jax.core.scheme import Scheme
from domino_jax.run import heat_map, monitor

LONGEST_NAME = 72  # characters; the columns behind it need the rest of a line

# How the reasons of biases and scales begin, which are added to or multiplied with activations.
_OF_BIASES = ("goes into add", "goes into sub", "goes into mul", "goes into div", "only scales")


def summary(
    layers: Iterable[LayerSpec],
    scheme: Scheme,
    budget: Budget,
    *,
    beside: Mapping[str, Budget] = MappingProxyType({}),
    activations: int = 0,
) -> dict[str, Any]:
    """Gathers every number of the table: one row a layer, and the totals.

    Args:
        layers: as `find_layers` gives them.
        scheme: of the grouped layers.
        budget: of these layers.
        beside: objective -> further budget.
        activations: MACs of products that no weight takes part in, which no budget counts.

    Returns:
        JSON-ready: 'layers', a list of rows; 'totals', with weights, MACs and the cost of the
        dense network and of the scheme, the budget in units of that cost and as a share of it, and
        those MACs apart.
    """
    layers = tuple(layers)
    return {
        "layers": [_row(layer, scheme) for layer in layers],
        "totals": {
            "weights": _pair(layers, costs.count_weights, scheme),
            "macs": _pair(layers, costs.count_macs, scheme),
            "cost": _pair(layers, budget.cost, scheme)
            | {"budget": _json(budget.allowed), "budget_share": budget.share},
            "beside": {
                objective: _pair(layers, each.cost, scheme)
                | {"budget": _json(each.allowed), "budget_share": each.share}
                for objective, each in beside.items()
            },
            "activations": activations,
        },
    }


def _row(layer: LayerSpec, scheme: Scheme) -> dict[str, Any]:
    nm = None if layer.reason else scheme.get(layer.name)
    n = nm.n if nm else None
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "nm": str(nm) if nm else "",
        "density": n / layer.m if n else 1.0,
        "weights": [costs.count_weights(layer, n), layer.size],
        "macs": [costs.count_macs(layer, n), layer.macs] if layer.roles else [0, 0],
        "reason": layer.reason or "",
        "counted": layer.roles is not None,
    }


def _pair(layers: Sequence[LayerSpec], cost: Cost, scheme: Scheme) -> dict[str, Any]:
    dense, kept = costs.total_cost(layers, cost), costs.total_cost(layers, cost, scheme)
    return {"dense": _json(dense), "scheme": _json(kept), "share": float(kept / dense)}


def _json(value: Number) -> int | float:
    return int(value) if value == int(value) else float(value)


def print_table(report: Mapping[str, Any], objective: str, budget: float, console: Console) -> None:
    """Prints a row a layer and the totals dense / scheme / budget."""
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    for title, side in (
        ("layer", "left"),
        ("shape", "right"),
        ("N:M", "right"),
        ("weights kept", "right"),
        ("MACs kept", "right"),
        ("dense because", "left"),
    ):
        table.add_column(title, justify=side, no_wrap=title != "dense because")  # type: ignore[arg-type]
    rows, folded = _folded(report["layers"])
    for row in rows:
        table.add_row(
            Text(shortened(row["name"])),
            "x".join(map(str, row["shape"])),
            row["nm"] or "dense",
            f"{row['weights'][0]:,}" if row["counted"] else "-",
            f"{row['macs'][0]:,}" if row["counted"] else "-",
            monitor.cell(row["reason"]),
        )
    if folded:
        table.add_row(f"{len(folded)} biases and scales", "", "dense", "-", "-", "in no product")
    console.print(table)
    console.print()
    console.print(_totals(report["totals"], objective, budget))


def _folded(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Parts the rows into those that are printed and the biases and scales, if there are several.

    Those of rank 2 and more (attention heads, Equinox' convolutions) would fill half the table.
    """
    folded = [row for row in rows if not row["counted"] and row["reason"].startswith(_OF_BIASES)]
    if len(folded) < 2:
        return list(rows), []
    return [row for row in rows if row not in folded], folded


def _totals(totals: Mapping[str, Any], objective: str, budget: float) -> Table:
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    table.add_column("")
    for title in ("dense", "scheme", "share", "budget"):
        table.add_column(title, justify="right", no_wrap=True)
    names = {"weights": "params", "macs": "macs"}
    for key, title in (("weights", "weights"), ("macs", "MACs")):
        ours = names[key] == objective
        limit = f"{totals['cost']['budget']:,} ({budget:.2%})" if ours else ""
        if names[key] in totals["beside"]:
            limit = ", ".join(filter(None, [limit, _limit(totals["beside"][names[key]])]))
        table.add_row(title, *_three(totals[key]), limit)
    if objective not in names.values():
        limit = f"{totals['cost']['budget']:,} ({budget:.2%})"
        table.add_row(
            monitor.cell(f"cost by {Path(objective).name}"), *_three(totals["cost"]), limit
        )
    for other, pair in totals["beside"].items():
        if other not in names.values():
            name = monitor.cell(f"cost by {Path(other).name}")
            table.add_row(name, *_three(pair), _limit(pair))
    if totals["activations"]:
        both = f"{totals['activations']:,}"
        table.add_row("MACs of activations", both, both, "", "not counted")
    return table


def _limit(pair: Mapping[str, Any]) -> str:
    return f"{pair['budget']:,} ({pair['budget_share']:.2%})"


def _three(pair: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{pair['dense']:,}", f"{pair['scheme']:,}", f"{pair['share']:.2%}"


def plot(
    path: Path,
    report: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    title: str,
    budget: float,
) -> None:
    """Draws the cost over the search against the budget, and the share kept of each layer.

    Many layers that lie in blocks are a heat map, others bars.

    Args:
        path: of the PNG.
        report: as `summary` gives it.
        curve: points with 'step' and 'share', the cost as a share of the dense one; without any,
            as of a uniform scheme, only the layers are drawn.
        title: of the picture.
        budget: share to keep.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (0.3 s to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = [row for row in report["layers"] if row["counted"]]
    found = heat_map.heat_map(rows)
    width, height = heat_map.size_of(found) if found else (2 + 0.32 * len(rows), 4.5)
    height += 3.0 if curve or not found else 0.0
    figure = Figure(figsize=(max(9.0, width), height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(shortened(title), parse_math=False)
    if curve:
        top, bottom = figure.subplots(2, 1, height_ratios=(3.0, height - 3.0))
        _costs(top, curve, budget)
    else:
        bottom = figure.subplots()
    if found:
        heat_map.draw(bottom, found)
    else:
        _bars(bottom, rows)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])


def _costs(axes: Any, curve: Sequence[Mapping[str, float]], budget: float) -> None:
    axes.step(
        [point["step"] for point in curve],
        [100 * point["share"] for point in curve],
        where="post",
        color="tab:blue",
        label="cost of the committed N:M",
    )
    axes.axhline(100 * budget, color="tab:red", linestyle="--", label="budget")
    axes.set(xlabel="search step", ylabel="% of the dense cost", ylim=(0, 105))
    axes.legend(frameon=False)


def _bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    colors = ["tab:blue" if row["nm"] else "lightgray" for row in rows]
    densities = [100 * row["density"] for row in rows]
    places = range(len(rows))
    axes.bar(places, densities, color=colors)
    for place, row in zip(places, rows, strict=True):
        label = row["nm"] or "dense"
        axes.text(
            place,
            100 * row["density"] + 1.5,
            label,
            ha="center",
            va="bottom",
            fontsize=7,
            rotation=90 if len(rows) > 12 else 0,
        )
    names = [shortened(row["name"].removesuffix("/kernel")) for row in rows]
    axes.set_xticks(list(places), names, parse_math=False)  # a name may have a '$'
    axes.tick_params(axis="x", labelrotation=90, labelsize=8)
    axes.set(ylabel="% of the weights kept", ylim=(0, 118), xlim=(-0.7, len(rows) - 0.3))
    axes.set_title("N of M kept in each layer (gray: kept dense)", fontsize=10)


def shortened(text: str) -> str:
    """Returns text for a table or a picture; of a long one the end, which says more."""
    shown = escaped(text)
    return shown if len(shown) <= LONGEST_NAME else f"…{shown[-LONGEST_NAME:]}"

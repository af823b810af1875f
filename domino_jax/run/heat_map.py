"""The N of many layers as a picture: a row for each matrix, a column for each block."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]  # of `report.summary`
LEAST_LAYERS = 40  # of fewer, bars with the name of each say more
LEAST_FILLED = 0.7  # of the map
_NUMBER = re.compile(r"(?<=/)\d+(?=/)|(?<=#)\d+$")  # of a block: a part of the path, or a slice


class HeatMap(NamedTuple):
    """Layers by place.

    Attributes:
        matrices: names of the rows.
        blocks: numbers of the columns.
        cells: (matrix, block) -> layer.
        others: layers that are in no block.
    """

    matrices: Sequence[str]
    blocks: Sequence[int]
    cells: Mapping[tuple[str, int], Row]
    others: Sequence[Row]


def heat_map(rows: Sequence[Row]) -> HeatMap | None:
    """Places layers by block and matrix; None where they are few, or of no such order."""
    cells: dict[tuple[str, int], Row] = {}
    others: list[Row] = []
    for row in rows:
        numbers = _NUMBER.findall(row["name"])
        if len(numbers) != 1:
            others.append(row)
            continue
        place = _NUMBER.sub("*", row["name"]), int(numbers[0])
        if place in cells:
            return None
        cells[place] = row
    matrices = list(dict.fromkeys(matrix for matrix, _ in cells))
    blocks = sorted({block for _, block in cells})
    is_filled = len(cells) >= LEAST_FILLED * len(matrices) * len(blocks)
    if len(rows) < LEAST_LAYERS or len(blocks) < 2 or len(others) > len(matrices) or not is_filled:
        return None
    return HeatMap(matrices, blocks, cells, others)


def size_of(found: HeatMap) -> tuple[float, float]:
    """Returns width and height of the picture of a map, in inches."""
    return 3.0 + 0.36 * len(found.blocks), 1.6 + 0.4 * len(found.matrices)


def draw(axes: Any, found: HeatMap) -> None:
    """Draws a map: the N of each layer over the share that it keeps."""
    for y, matrix in enumerate(found.matrices):
        for x, block in enumerate(found.blocks):
            row = found.cells.get((matrix, block))
            if row is not None:
                _draw_cell(axes, x, y, row)
    axes.set_xticks(range(len(found.blocks)), found.blocks)
    names = _without_common_parts(found.matrices)
    axes.set_yticks(range(len(names)), names, parse_math=False)  # a name may have a '$'
    axes.set(xlim=(-0.5, len(found.blocks) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="block")
    axes.tick_params(length=0, labelsize=8)
    apart = ", ".join(f"{row['name']} {row['nm'] or 'dense'}" for row in found.others)
    title = "N kept of every M, by block and matrix (gray: kept dense)"
    axes.set_title(f"{title}{apart and f'; {apart}'}", fontsize=10, parse_math=False)


def _draw_cell(axes: Any, x: int, y: int, row: Row) -> None:
    from matplotlib import colormaps  # noqa: PLC0415 (0.3 s to import)
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    density = row["density"]
    color = colormaps["Blues"](0.1 + 0.8 * density) if row["nm"] else "lightgray"
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white"))
    ink = "white" if row["nm"] and density > 0.6 else "black"
    axes.text(x, y, row["nm"].partition(":")[0], ha="center", va="center", fontsize=8, color=ink)


def _without_common_parts(matrices: Sequence[str]) -> list[str]:
    """Leaves out the parts of the paths that all have at their beginning and their end."""
    paths = [matrix.removesuffix("#*").split("/") for matrix in matrices]
    first = last = 0
    shortest = min(len(path) for path in paths) - 1
    while first < shortest and len({path[first] for path in paths}) == 1:
        first += 1
    while last < shortest - first and len({path[-1 - last] for path in paths}) == 1:
        last += 1
    return ["/".join(path[first : len(path) - last]) for path in paths]

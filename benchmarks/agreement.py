"""How often two methods of a comparison give a layer the same N, and how far apart they are else.

    python -m domino_jax.compare --config=configs/glyphs.py --workdir=runs/instant
        --methods=uniform,domino,instant --budgets=4:16,2:16,1:16 --trainers=none
    python -m benchmarks.agreement runs/instant --methods instant domino

A scheme is read of every cell that both methods have: seed, budget and trainer the same.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.clock import print_table
from domino_jax.core.scheme import Scheme, load


class Agreement(NamedTuple):
    """How two schemes of one network compare.

    Attributes:
        same: layers that keep the same N of M.
        layers: all of them.
        apart: mean distance of N / M of the others; 0 where there are none.
    """

    same: int
    layers: int
    apart: float


def agreement(one: Scheme, other: Scheme) -> Agreement:
    """Compares two schemes of the same layers."""
    gaps = np.array(
        [abs(one[name].n / one[name].m - other[name].n / other[name].m) for name in one]
    )
    different = gaps[gaps > 0]
    return Agreement(
        int((gaps == 0).sum()), len(gaps), float(different.mean()) if len(different) else 0.0
    )


def schemes(folder: Path, methods: Sequence[str]) -> dict[tuple[str, str], list[Scheme]]:
    """Reads the schemes of each method: (seed, budget) -> one scheme a method."""
    found: dict[tuple[str, str], dict[str, Scheme]] = {}
    names = "|".join(map(re.escape, methods))
    for path in sorted(folder.glob("seed*/*/scheme.json")):
        cell = re.fullmatch(rf"([0-9.%]+(?:(?:of|over)[0-9]+)?)_({names})_.*", path.parent.name)
        if cell:
            of_cell = found.setdefault((path.parent.parent.name, cell[1]), {})
            of_cell.setdefault(cell[2], load(path))
    return {
        cell: [of_cell[method] for method in methods]
        for cell, of_cell in found.items()
        if of_cell.keys() == set(methods)
    }


def main() -> None:
    """Prints one row for each cell, and one for all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of domino_jax.compare")
    parser.add_argument("--methods", nargs=2, default=["instant", "domino"])
    options = parser.parse_args()
    found = {
        cell: agreement(*pair) for cell, pair in schemes(options.folder, options.methods).items()
    }
    if not found:
        parser.error(f"{options.folder}: no cell has both {' and '.join(options.methods)}")
    rows = [
        (*cell, f"{each.same} of {each.layers}", f"{each.apart:.3f}")
        for cell, each in found.items()
    ]
    same, layers = (sum(each[i] for each in found.values()) for i in (0, 1))
    rows.append(("all", "", f"{same} of {layers}", ""))
    print_table(("seed", "budget", "same N", "the others apart, of M"), rows)


if __name__ == "__main__":
    main()

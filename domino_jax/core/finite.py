"""No NaN and no infinity goes in or out: arrays of networks and data, asked on the host."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path


def is_finite(values: Any) -> bool:
    """Says whether all numbers of an array are finite; whole numbers always are."""
    array = np.asarray(values)
    return not jax.dtypes.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())


def require_finite(place: str | Path, tree: Any) -> None:
    """Refuses arrays that are not all finite, such as weights and statistics.

    Raises:
        InputError: where they come from, and the path of the first.
    """
    for path, leaf in leaves_by_path(tree).items():
        if not is_finite(leaf):
            raise InputError(f"{place}: expected finite numbers, got NaN or infinity in {path!r}")

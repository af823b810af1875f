"""Options that the factories of several networks share, checked."""

from numbers import Integral
from typing import Any

import jax

from domino_jax.core.errors import InputError
from domino_jax.core.paths import require_known

DTYPES = ("float32", "bfloat16")


def require_dtype(dtype: str | None) -> None:
    """Refuses a dtype of the computation that is none of `DTYPES`; None is allowed.

    Raises:
        InputError: what came, and what is allowed.
    """
    if dtype is not None:
        if not isinstance(dtype, str):
            raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        require_known([dtype], DTYPES, what="dtype")


def require_positive(**sizes: Any) -> None:
    """Refuses sizes that are no positive integers.

    Raises:
        InputError: the first such size by name.
    """
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise InputError(f"{name} must be a positive integer, got {size!r}")


def only_array(example: Any, rank: int, expected: str) -> Any:
    """Returns the one array that an example is.

    Args:
        example: a pytree of arrays or ShapeDtypeStructs.
        rank: of the array.
        expected: the start of the error message, such as 'a vision transformer takes one array …'.

    Raises:
        InputError: another number of arrays, or one of another rank.
    """
    leaves = jax.tree.leaves(example)
    if len(leaves) != 1 or len(leaves[0].shape) != rank:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise InputError(f"{expected}, got {shapes or 'nothing'}")
    return leaves[0]

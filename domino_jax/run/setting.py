"""What a setting is, and the names that settings may have: of tables, imported when asked for."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """One setting.

    Attributes:
        default: the paper's value; a tuple where lists are taken too.
        allows: says whether a value is allowed; a TypeError or OverflowError means no, too.
        expected: the words for it.
        meaning: one or two sentences.
        values: their type, where it is not that of the default; object: of any type.
        words: whether a word may stand beside values of that type.
    """

    default: Any
    allows: Callable[[Any], bool]
    expected: Callable[[], str]
    meaning: str
    values: type | None = None
    words: bool = False


def methods() -> Iterable[str]:
    """Lists the allocators."""
    from domino_jax.allocate.table import ALLOCATORS  # noqa: PLC0415 (JAX, not for --help)

    return ALLOCATORS


def losses() -> Iterable[str]:
    """Lists the losses."""
    from domino_jax.train.criteria import LOSSES  # noqa: PLC0415 (as above)

    return LOSSES


def paces() -> Iterable[str]:
    """Lists the paces."""
    from domino_jax.allocate.paces import PACES  # noqa: PLC0415 (as above)

    return PACES


def scores() -> Iterable[str]:
    """Lists the scores of masks."""
    from domino_jax.allocate.scores import SCORES  # noqa: PLC0415 (as above)

    return SCORES


def trainers() -> Iterable[str]:
    """Lists the trainers."""
    from domino_jax.train.trainers import TRAINERS  # noqa: PLC0415 (as above)

    return TRAINERS


def patterns() -> Iterable[str]:
    """Lists the patterns of masks."""
    from domino_jax.core.masked import PATTERNS  # noqa: PLC0415 (as above)

    return PATTERNS


def dense_optimizers() -> Iterable[str]:
    """Lists the optimizers of dense training."""
    from domino_jax.train.optim import DENSE_OPTIMIZERS  # noqa: PLC0415 (as above)

    return DENSE_OPTIMIZERS


def optimizers() -> Iterable[str]:
    """Lists the optimizers of sparse training."""
    from domino_jax.train.optim import OPTIMIZERS  # noqa: PLC0415 (as above)

    return OPTIMIZERS


def schedules() -> Iterable[str]:
    """Lists the schedules of the learning rate."""
    from domino_jax.train.optim import SCHEDULES  # noqa: PLC0415 (as above)

    return SCHEDULES


def curves() -> Iterable[str]:
    """Lists the forms of a ramp."""
    from domino_jax.train.ramps import POWERS  # noqa: PLC0415 (as above)

    return ("", *POWERS)

"""What the options of a data set may be; `create` and `spec` of each refuse the same."""

from numbers import Integral
from typing import Any

from domino_jax.core.errors import InputError


def require_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuses all but a whole number from `low` to `high`, or of at least `low`.

    Raises:
        InputError: the option, what is allowed and what came.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
    if not fits or (high is not None and int(value) > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name}: expected a whole number {allowed}, got {value!r}")


def require_flag(name: str, value: Any) -> None:
    """Refuses all but True and False: the text 'no' would count as true.

    Raises:
        InputError: the option and what came.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected True or False, got {value!r}")

"""What a setting may be: pairs of a check and of the words that complete 'expected …'.

The words are a function, since some name the entries of a table: `--help` and the config files do
not ask for those, and so import no JAX. Every number has an upper end: steps and batches are
counted in int32, and what is multiplied with weights must be finite in float32.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from domino_jax.core.amounts import FORMS, parse_amount
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM

LARGEST_COUNT = 2**31 - 1  # int32
LARGEST_NUMBER = 1e38  # float32 ends at 3.4e38
LARGEST_SEED = 2**32 - 1  # of which JAX uses the lower 32 bits
MOST_EPOCHS = 1e6
MOST_WORKERS = 1024  # processes
EVERY = "every"  # of candidates: all N up to M
LARGEST_M = 64
OWN = "package.module:name"

Kind = tuple[Callable[[Any], bool], Callable[[], str]]


def text() -> Kind:
    """Any text, '' too, that can be the name of a file."""
    return _is_text, lambda: "text"


def name() -> Kind:
    """Text that is not empty."""
    return lambda v: _is_text(v) and bool(v), lambda: "a name"


def flag() -> Kind:
    """True or False."""
    return lambda v: isinstance(v, bool), lambda: "True or False"


def whole(low: int, high: int = LARGEST_COUNT) -> Kind:
    """Whole numbers, both ends included."""
    return lambda v: _is_int(v) and low <= v <= high, lambda: f"a whole number from {low} to {high}"


def number(low: float, high: float = LARGEST_NUMBER) -> Kind:
    """Numbers, both ends included."""
    return (
        lambda v: _is_number(v) and low <= v <= high,
        lambda: f"a number from {low:g} to {high:g}",
    )


def above(low: float, high: float = LARGEST_NUMBER) -> Kind:
    """Numbers above `low`, up to `high`."""
    return (
        lambda v: _is_number(v) and low < v <= high,
        lambda: f"a number above {low:g}, up to {high:g}",
    )


def below(high: float) -> Kind:
    """Numbers from 0, below `high`."""
    return lambda v: _is_number(v) and 0 <= v < high, lambda: f"a number from 0 to below {high:g}"


def budget() -> Kind:
    """Shares, and budgets in words."""
    return _is_budget, lambda: FORMS


def budgets() -> Kind:
    """Tuples of (objective, budget)."""
    return _are_budgets, lambda: f"a tuple of pairs (objective, budget), a budget {FORMS}"


def nm() -> Kind:
    """'' or N:M."""
    return lambda v: _is_text(v) and (v == "" or _is_nm(v)), lambda: "'' or N:M, such as '8:16'"


def none_or(kind: Kind) -> Kind:
    """None, or what another kind allows."""
    allows, expected = kind
    return lambda v: v is None or allows(v), lambda: f"None or {expected()}"


def one_of(names: Callable[[], Iterable[str]]) -> Kind:
    """One of the names in a table, which is imported when it is asked for."""
    return (
        lambda v: isinstance(v, str) and v in tuple(names()),
        lambda: "one of " + ", ".join(map(repr, names())),
    )


def one_of_or_own(names: Callable[[], Iterable[str]]) -> Kind:
    """One of the names in a table, or a function of one's own."""
    return (
        lambda v: _is_text(v) and (":" in v or v in tuple(names())),
        lambda: f"one of {', '.join(map(repr, names()))}, or '{OWN}'",
    )


def rising() -> Kind:
    """Tuples of whole numbers, each larger than the one before."""
    return _is_rising, lambda: "a rising tuple of whole numbers of 1 or more"


def candidates() -> Kind:
    """None, the word 'every', or a rising tuple."""
    return (
        lambda v: v is None or (isinstance(v, str) and v == EVERY) or _is_rising(v),
        lambda: f"None or {EVERY!r}, or a rising tuple of whole numbers of 1 or more",
    )


def pair_of_steps() -> Kind:
    """(), or two numbers of steps."""
    return _is_pair_of_steps, lambda: f"() or (first step, then every), from 1 to {LARGEST_COUNT}"


def pair_of_shares() -> Kind:
    """Two shares of a training, the first not above the second."""
    return _is_pair_of_shares, lambda: "two shares of the training, (from, to) with 0 <= from <= to"


def pairs() -> Kind:
    """Tuples of (regex, value); what a value may be, `core.rules` says."""
    return _is_pairs, lambda: "a tuple of pairs (regex, value)"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_budget(value: Any) -> bool:
    try:
        parse_amount(value)
    except InputError:
        return False
    return True


def _are_budgets(value: Any) -> bool:
    return _is_pairs(value) and all(name and _is_budget(amount) for name, amount in value)


def _is_nm(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(NM.parse(value))
    except InputError:
        return False


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rising(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) > 0
        and all(_is_int(n) and n >= 1 for n in value)
        and all(a < b for a, b in itertools.pairwise(value))
    )


def _is_pair_of_steps(value: Any) -> bool:
    return isinstance(value, tuple | list) and (
        len(value) == 0
        or (len(value) == 2 and all(_is_int(v) and 1 <= v <= LARGEST_COUNT for v in value))
    )


def _is_pair_of_shares(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(_is_number(v) for v in value)
        and 0 <= value[0] <= value[1] <= 1
    )


def _is_pairs(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
        for rule in value
    )

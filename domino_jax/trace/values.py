"""What a value may be while parameters are followed, and what is said of it where it ends.

A value is one of five:
- a tuple of `View`: an array that still holds weights (several views where they were concatenated);
- a number: a constant scalar, or an array filled with it;
- `INPUT`: computed from the inputs;
- a frozenset of paths: computed from these parameters and constants, but no weight any more;
- `Known`: one of these two, of which more is known.

One word for one thing: a `reason` keeps a parameter dense, a `note` says of a harmless use what
the parameter is for.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from domino_jax.trace import views
from domino_jax.trace.known import Known
from domino_jax.trace.products import Use
from domino_jax.trace.views import View
from domino_jax.trace.walk import Facts, Value

INPUT = "computed from the inputs"
Outcome = tuple[list[Value], Facts]


def views_of(values: Iterable[Value]) -> list[View]:
    """Lists the views among the values."""
    return [view for value in values if isinstance(value, tuple) for view in value]


def plain(value: Value) -> Value:
    """Forgets what is known of an array beside where it comes from."""
    if not isinstance(value, Known):
        return value
    return frozenset() if value.constant else INPUT


def rest(values: Iterable[Value]) -> Value:
    """What is computed from these values, when no weights can be seen in it any more."""
    values = [plain(value) for value in values]
    if INPUT in values:
        return INPUT
    if any(view.varies for view in views_of(values)):
        return INPUT
    path_sets = [value for value in values if isinstance(value, frozenset)]
    return frozenset().union({view.path for view in views_of(values)}, *path_sets)


def end(eqn: Any, values: Sequence[Value], facts: Facts) -> Outcome:
    """Ends the views: the results are what is left of the values."""
    return [rest(values)] * len(eqn.outvars), facts


def reasons(values: Iterable[Value], reason: str) -> list[Use]:
    """Keeps the parameters dense; rows looked up in a table are activations from there on."""
    return [
        Use(view, note="looked up")
        if _is_of_table(view)
        else Use(view, reason=view.reason or reason)
        for view in views_of(values)
    ]


def notes(values: Iterable[Value], note: str) -> list[Use]:
    """Notes what a harmless use does."""
    return [
        Use(view, note="looked up" if _is_of_table(view) else note) for view in views_of(values)
    ]


def _is_of_table(view: View) -> bool:
    """Says whether a view is rows looked up in a table, where no product with them is seen."""
    return view.picked or (view.varies and views.is_repeated(view))


def listed(paths: Iterable[str]) -> str:
    """Names at most two of some parameters."""
    first, *more = sorted(paths)
    return first + (f", {more[0]}" if more else "") + (", …" if len(more) > 1 else "")

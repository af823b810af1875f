"""Losses measured so far, on disk, so that a stopped measurement goes on."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from domino_jax.allocate.problem import Problem
from domino_jax.core.files import json_text

FILE = "measured.json"
SECONDS = 5.0  # from write to write

Measured = Mapping[str, Mapping[int, float]]  # layer name -> {n: mean loss}; n = M is dense


@contextmanager
def kept(
    problem: Problem, key: Mapping[str, Any]
) -> Iterator[tuple[Measured, Callable[[Measured], None]]]:
    """Yields what was measured before, and keep(measured), which writes now and then.

    The last that was kept is written however the block ends.

    Args:
        problem: which keeps and recalls the file.
        key: plain JSON values; what was measured with another key counts as nothing.
    """
    latest: Measured = {}
    written = time.monotonic()

    def write() -> None:
        if latest:
            problem.keep(FILE, json_text({**key, "losses": latest}) + "\n")

    def keep(measured: Measured) -> None:
        nonlocal latest, written
        latest = measured
        if time.monotonic() - written > SECONDS:
            written = time.monotonic()
            write()

    try:
        yield _read(problem.recall(FILE), key), keep
    finally:
        write()


def _read(text: str | None, key: Mapping[str, Any]) -> Measured:
    """Reads the losses; what is broken, or of another key, is measured anew."""
    if text is None:
        return {}
    try:
        document = json.loads(text)
        same = all(document[name] == value for name, value in key.items())
        losses = document["losses"]
        measured = {
            name: {int(n): float(x) for n, x in losses[name].items()} for name in losses if same
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    finite = all(math.isfinite(loss) for row in measured.values() for loss in row.values())
    return measured if finite else {}

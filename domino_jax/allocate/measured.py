"""Losses measured so far, on disk, so that a stopped measurement goes on."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from domino_jax.core.files import write_text

FILE = "measured.json"
SECONDS = 5.0  # from write to write

Measured = Mapping[str, Mapping[int, float]]  # layer name -> {n: mean loss}; n = M is dense


@contextmanager
def kept(
    folder: Path | None, key: Mapping[str, Any]
) -> Iterator[tuple[Measured, Callable[[Measured], None]]]:
    """Yields what was measured before, and keep(measured), which writes now and then.

    The last that was kept is written however the block ends.

    Args:
        folder: of the file; None: nothing is read or written.
        key: plain JSON values; what was measured with another key counts as nothing.
    """
    path = folder / FILE if folder is not None else None
    latest: Measured = {}
    written = time.monotonic()

    def write() -> None:
        if path is not None and latest:
            write_text(path, json.dumps({**key, "losses": latest}) + "\n")

    def keep(measured: Measured) -> None:
        nonlocal latest, written
        latest = measured
        if time.monotonic() - written > SECONDS:
            written = time.monotonic()
            write()

    try:
        yield _read(path, key), keep
    finally:
        write()


def _read(path: Path | None, key: Mapping[str, Any]) -> Measured:
    """Reads the losses; a file that is broken, or of another key, is measured anew."""
    if path is None or not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        same = all(document[name] == value for name, value in key.items())
        losses = document["losses"]
        return {
            name: {int(n): float(x) for n, x in losses[name].items()} for name in losses if same
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}

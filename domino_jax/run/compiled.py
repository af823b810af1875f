"""Compiled programs on disk, of which a killed process may have written one in part.

JAX neither replaces nor removes such an entry: it warns of it and compiles, in every later run.
"""

import glob
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

# JAX names the program, and its entries begin with that name.
_WARNING = re.compile(r"Error (?:read|writ)ing persistent compilation cache entry for '(.+?)': ")


def discard_broken(folder: str) -> None:
    """From now on removes the entries of a program that JAX cannot read or write, without a word.

    Args:
        folder: of the compiled programs; '' where they are not kept.
    """
    if not folder:
        return
    show = warnings.showwarning

    def discard(message: Any, *place: Any, **more: Any) -> None:
        match = _WARNING.match(str(message))
        if match is None:
            show(message, *place, **more)
            return
        for entry in Path(folder).glob(f"{glob.escape(match[1])}-*"):
            with suppress(OSError):  # it costs time alone if it stays
                entry.unlink()

    warnings.showwarning = discard

"""The one type of a user's mistake, and how text from outside is shown in one line."""

import traceback
from collections.abc import Callable
from pathlib import Path

TRACEBACK = "DOMINO_TRACEBACK"  # environment variable: commands then show where, too
_LONGEST = 2000  # characters: a screen


class InputError(ValueError):
    """Something that came in is wrong; its message is one line that says what to do.

    Whatever else is raised is a fault of this program or of a library, and shown as such.
    """


def escaped(text: str) -> str:
    """Writes text so that a terminal takes it for nothing but text.

    Control characters, escape sequences and what is no Unicode text (a path of other bytes) are
    shown by their number.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """Writes text as `escaped` does, in one line; very long text is cut."""
    line = escaped(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def said(error: BaseException) -> str:
    """Returns the type of an error and the first line of its text."""
    text = next(iter(str(error).splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error: BaseException, counts: Callable[[str], bool] = lambda module: True) -> str:
    """Returns ' (file, line 3)': the last line at work in the modules that count; '' if in none."""
    lines = [
        (Path(frame.f_code.co_filename), number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if counts(str(frame.f_globals.get("__name__")))
    ]
    if not lines:
        return ""
    (path, number), here = lines[-1], Path.cwd()
    return f" ({path.relative_to(here) if path.is_relative_to(here) else path}, line {number})"


def fault(error: BaseException) -> str:
    """Says in one line what nobody expected: an error of this program or of a library.

    Neither ends the program by itself: `sys.exit` is always of code that the input names.
    """
    if isinstance(error, SystemExit):
        return (
            f"unexpected {said(error)}{place(error)}: expected code that raises an error, got code "
            f"that ends the program; {TRACEBACK}=1 shows where"
        )
    return (
        f"unexpected {said(error)}; this is a fault of the program or of a library, not of the "
        f"input: {TRACEBACK}=1 shows where"
    )

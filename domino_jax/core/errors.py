"""The one type of a user's mistake, and how text from outside is shown in one line."""

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


def fault(error: BaseException) -> str:
    """Says in one line what nobody expected: an error of this program or of a library."""
    text = next(iter(str(error).splitlines()), "").rstrip(".")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (
        f"unexpected {said}; this is a fault of the program or of a library, not of the input: "
        f"{TRACEBACK}=1 shows where"
    )

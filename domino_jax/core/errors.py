"""The one type of a user's mistake, and how text from outside is shown in one line."""

TRACEBACK = "DOMINO_TRACEBACK"  # environment variable: commands then show where, too
_LONGEST = 2000  # characters: a screen


class InputError(ValueError):
    """Something that came in is wrong; its message is one line that says what to do.

    Whatever else is raised is a fault of this program or of a library, and shown as such.
    """


def printable(text: str) -> str:
    """Writes text in one line that a terminal takes for nothing but text.

    Space of any kind becomes one blank. Control characters, escape sequences and what is no
    Unicode text (a path of other bytes) are shown escaped; very long text is cut.
    """
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"

"""The one type of a user's mistake."""


class InputError(ValueError):
    """Something that came in is wrong; its message is one line that says what to do.

    Whatever else is raised is a fault of this program or of a library, and shown as such.
    """

"""A stdout that takes no more, a full disk or a pipe that nobody reads: an error that names it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, Any

from domino_jax.core.errors import InputError


class OutputLost(InputError):  # noqa: N818 (reads as a sentence)
    """What was printed did not arrive; whatever else was done stays."""


class _Output:
    """A stdout whose errors are `OutputLost`: rich ends the program at those of a pipe."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with _named(self._file):
            return self._file.write(text)

    def flush(self) -> None:
        with _named(self._file):
            self._file.flush()


@contextmanager
def arriving() -> Iterator[None]:
    """Sees to it that all that is printed arrives before the end.

    Raises:
        OutputLost: it does not; what else goes wrong comes first.
    """
    if sys.stdout is None:  # closed: Python prints nothing
        yield
        return
    output: Any = _Output(sys.stdout)
    with redirect_stdout(output):
        try:
            yield
        except BaseException:
            with suppress(OutputLost):
                output.flush()
            raise
        output.flush()


@contextmanager
def _named(file: IO[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _forget(file)
        raise OutputLost(f"stdout: {error.strerror or error}") from error


def _forget(file: IO[str]) -> None:
    """Lets what is still to be written go nowhere: at its end Python would try, and fail, again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)

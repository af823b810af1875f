"""Events that TensorBoard reads, on a disk that may be full or gone.

tensorboardX writes from a thread of its own, and once more when Python ends. An error there would
be a traceback that no one can catch. So it writes to a file of ours, which keeps its first error
and is silent from then on; whoever writes the next event, or closes, gets the error.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from domino_jax.run import cluster

_SCHEME = "domino_jax"  # in front of a path: who opens it


class _EventFile:
    """What tensorboardX asks of a file.

    Attributes:
        error: the first that was met; None if there was none.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._path = path
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Writes all of it."""
        with self._noting():
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]

    def flush(self) -> None:
        """Waits until it is on disk."""
        with self._noting():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, whatever it has met."""
        with self._noting():
            self._file.close()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Keeps the first error of a block, with the name of the file."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._path)
            self.error = self.error or error


class _EventFiles:
    """Opens event files for tensorboardX, and remembers them."""

    def __init__(self) -> None:
        self.opened: list[_EventFile] = []

    def open(self, path: str) -> _EventFile:
        """Opens the file of a path behind the scheme."""
        self.opened.append(_EventFile(Path(path.partition(":")[2])))
        return self.opened[-1]

    def directory_check(self, path: str) -> None:
        """Makes the folder of a path behind the scheme."""
        Path(path.partition(":")[2]).mkdir(parents=True, exist_ok=True)

    def require_written(self) -> None:
        """Raises the error that a file has met."""
        for file in self.opened:
            if file.error is not None:
                raise file.error


@contextmanager
def events(folder: Path, start: int = 0) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Opens TensorBoard events in a folder; yields write(step, scalars).

    TensorBoard then hides what a killed run wrote there about steps after `start`.

    Raises:
        OSError: an event cannot be written, at the next one or at the end.
    """
    files = _EventFiles()

    @cache
    def writer() -> Any:
        # Imported with the first values: it takes 0.3 s, or 1.3 where it finds PyTorch.
        from tensorboardX import SummaryWriter  # noqa: PLC0415
        from tensorboardX.record_writer import register_writer_factory  # noqa: PLC0415

        register_writer_factory(_SCHEME, files)
        return SummaryWriter(f"{_SCHEME}:{folder}", flush_secs=10, purge_step=start + 1)

    def write(step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items() if cluster.is_first() else ():
            writer().add_scalar(name, value, step)
        files.require_written()

    try:
        yield write
    finally:
        if files.opened:
            writer().close()
    files.require_written()

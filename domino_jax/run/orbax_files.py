r"""Arrays in a folder, as Orbax writes and reads them; no other module imports Orbax to do so.

Orbax reads `*`, `?`, `[..]` and `\` in a path as a pattern and `gs:` as another file system, and
skips its last step with a warning. What it prints from its threads is raised here as well.
"""

import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging as absl_logging

from domino_jax.core.errors import InputError

T = TypeVar("T")

_OPEN = Path("/proc/self/fd")
_SYSTEM = re.compile(r"os_error_code='(\d+)'")


def write(folder: Path, leaves: Mapping[str, Any]) -> None:
    """Writes arrays by path into a folder that is not there yet.

    Raises:
        InputError: one line; they could not be written.
    """

    def save() -> None:
        import orbax.checkpoint as ocp  # noqa: PLC0415 (0.35 s, which `--help` need not pay)

        with _checkpointer() as checkpointer, _opened(folder.parent) as parent:
            checkpointer.save(parent / folder.name, args=ocp.args.PyTreeSave(leaves))

    _in_one_line(f"{folder.parent}: step {folder.stem} cannot be saved", save)


def read(folder: Path, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads arrays by path that `write` wrote.

    Raises:
        InputError: one line; they could not be read.
    """
    return dict(read_tree(folder, dict.fromkeys(paths, 0)))


def read_tree(folder: Path, template: Any) -> Any:
    """Reads a pytree of arrays.

    Args:
        folder: that Orbax wrote.
        template: a pytree like the one that was saved, or a dictionary of some of its entries;
            leaves that are `...` are not read.

    Raises:
        InputError: one line; they could not be read.
    """

    def restore() -> Any:
        import jax  # noqa: PLC0415
        import orbax.checkpoint as ocp  # noqa: PLC0415

        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
        args = ocp.args.PyTreeRestore(item=template, restore_args=as_numpy, partial_restore=True)
        with _checkpointer() as checkpointer, _opened(folder) as place:
            return checkpointer.restore(place, args=args)

    return _in_one_line(f"{folder}: Orbax cannot read the checkpoint", restore)


def metadata(folder: Path) -> Any:
    """Reads the pytree of a checkpoint; its leaves have a dtype and a shape.

    Raises:
        InputError: one line; it could not be read.
    """

    def read_metadata() -> Any:
        with _checkpointer() as checkpointer, _opened(folder) as place:
            tree = checkpointer.metadata(place).item_metadata
        if tree is None:
            raise InputError("its list of arrays is missing or broken")
        return tree.tree

    return _in_one_line(f"{folder}: Orbax cannot read the checkpoint", read_metadata)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # noqa: PLC0415

    # Weights hardly compress: 82 MB instead of 89, for a third of the work of writing and reading.
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False))


@contextmanager
def _opened(folder: Path) -> Iterator[Path]:
    """Yields a path of an open folder in which nothing looks like a pattern.

    It stays that of this folder, also when somebody moves it meanwhile: Orbax would make it anew.
    Where a system has no such paths, a pattern is refused when the save is read back.
    """
    if not _OPEN.is_dir():
        yield folder
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _OPEN / str(number)
    finally:
        os.close(number)


def _in_one_line(what: str, act: Callable[[], T]) -> T:
    """Returns act(); what fails in it becomes one line, and Orbax's threads print nothing more."""
    loggers = (absl_logging.get_absl_logger(), logging.getLogger("asyncio"))
    hook = sys.unraisablehook
    for logger in loggers:
        logger.addFilter(_is_not_of_orbax)
    sys.unraisablehook = _without_closed_loops
    try:
        result = act()
        for logger in loggers:
            logger.removeFilter(_is_not_of_orbax)
        sys.unraisablehook = hook
        return result
    except Exception as error:  # Orbax and TensorStore raise many types
        cause = _cause(error)
    # It stays quiet: writes that fail after the first are told in threads, to a closed loop.
    # Collected: what never ran warns when it goes, which it cannot while the error holds it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    raise InputError(f"{what}: {cause}")


def _is_not_of_orbax(log_record: logging.LogRecord) -> bool:
    # asyncio tells of Orbax's tasks that failed after the first: it names their file.
    return "orbax" not in log_record.pathname and "orbax" not in log_record.getMessage()


def _without_closed_loops(failed: Any) -> None:
    if not isinstance(failed.exc_value, RuntimeError | AttributeError):
        sys.__unraisablehook__(failed)


def _cause(error: BaseException) -> str:
    """Says in a few words why something failed: what the system said, where it said something."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := _SYSTEM.search(str(error)):
        return os.strerror(int(code[1]))
    text = re.sub(rf"{_OPEN}/\d+/?", "", str(error))
    return next(iter(text.splitlines()), "") or type(error).__name__

"""Files of a work directory: its lock, its JSON, the curve of a search."""

import fcntl
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from domino_jax.core import files
from domino_jax.core.errors import InputError
from domino_jax.run import cluster

LOCK = ".lock"
RECORD = "config.json"  # how the directory was made (`provenance`)
PROGRAM = "domino_jax"  # as the record names it
PHASES = ("dense", "search", "train")  # also their folders
CURVE = "votes.jsonl"
# Numbers of processes repeat, from machine to machine and from container to container.
_OWNER = f"{os.getpid()} {secrets.token_hex(8)}"
_LONGEST = 100  # characters of a lock that are read


def prepare(workdir: Path) -> None:
    """Makes the work directory.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        reason = "it is a file" if workdir.is_file() else error.strerror
        reason = "it is a link to nothing" if _is_broken_link(workdir) else reason
        raise InputError(f"workdir {workdir}: cannot be written ({reason})") from None


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def require_files(folder: Path, names: Iterable[str]) -> None:
    """Refuses a folder, a pipe or a device in the place of a file that a run reads or writes.

    Raises:
        InputError: the first one.
    """
    for path in (folder / name for name in names):
        if path.exists() and (kind := files.kind_of(path)) != "a file":
            raise InputError(f"{path}: expected a file, got {kind}; remove it")


def require_outside_runs(folder: Path, name: str) -> None:
    """Refuses a folder within those where another run keeps its checkpoints.

    Args:
        folder: where something will be written; it need not be there.
        name: of it, for the message.

    Raises:
        InputError: which run that is.
    """
    place = Path(os.path.realpath(folder))
    for inside, run in zip((place, *place.parents), place.parents, strict=False):
        if inside.name in PHASES and _is_run(run):
            raise InputError(
                f"{name} {folder}: expected a folder outside {inside}, where the run of {run} "
                "keeps its checkpoints; choose another"
            )


def _is_run(folder: Path) -> bool:
    with suppress(InputError):
        document = files.read_json(folder / RECORD)
        return isinstance(document, dict) and document.get("program") == PROGRAM
    return False


@contextmanager
def taken(workdir: Path) -> Iterator[None]:
    """Makes and locks a work directory; folders that it made and that stay empty go again.

    Raises:
        InputError: as `require_outside_runs`, `prepare` and `locked`.
    """
    require_outside_runs(workdir, "workdir")
    new_folders: list[Path] = []
    with suppress(OSError):  # what cannot be looked at, `prepare` refuses
        new_folders += [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    prepare(workdir)
    with locked(workdir):
        try:
            yield
        finally:
            if new_folders:
                _remove_empty(new_folders)


def _remove_empty(folders: list[Path]) -> None:
    """Removes a work directory that holds its lock alone, and then its parents while empty."""
    with suppress(OSError):  # another process may be making something there
        lock = folders[0] / LOCK
        # The directory may have been removed, and made anew by a process that works there now.
        if [path.name for path in folders[0].iterdir()] == [LOCK] and _owner_of(lock) == _OWNER:
            lock.unlink()
            for folder in folders:
                folder.rmdir()


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes off a work directory, until the end of the context or the process.

    Raises:
        InputError: another process works there, the file system has no locks, or something else is
            in the place of the file.
    """
    with _opened_lock(workdir) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"workdir {workdir}: {_named(file.read(_LONGEST))} is at work there; wait for it, "
                "or choose another"
            ) from None
        except OSError as error:
            raise InputError(f"workdir {workdir}: cannot be locked ({error.strerror})") from None
        if not _is_there(workdir / LOCK, file):
            raise InputError(f"workdir {workdir}: another process has just left it; try again")
        # Not removed where there are results: another process may have opened it by now.
        file.truncate(0)
        file.write(_OWNER)
        file.flush()
        yield


def _opened_lock(workdir: Path) -> IO[str]:
    """Opens the file of a lock, made if missing; nothing else in its place is followed or changed.

    Raises:
        InputError: what is there instead, or why it cannot be opened.
    """
    path = workdir / LOCK
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would wait
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        other = "a link" if path.is_symlink() else "a folder" if path.is_dir() else ""
        reason = f"its {LOCK} is {other}; remove it" if other else error.strerror
        raise InputError(f"workdir {workdir}: cannot be locked ({reason})") from None
    if (kind := files.kind_of(number)) != "a file":
        os.close(number)
        raise InputError(f"workdir {workdir}: cannot be locked (its {LOCK} is {kind}; remove it)")
    return os.fdopen(number, "r+", errors="replace")


def _owner_of(lock: Path) -> str:
    """Reads who has a lock; '' if its file is something else.

    Raises:
        OSError: it cannot be read.
    """
    if files.kind_of(lock) != "a file":
        return ""
    with lock.open(errors="replace") as file:
        return file.read(_LONGEST)


def _is_there(path: Path, file: IO[str]) -> bool:
    """Says whether an open file is still the one at a path: the lock of a removed one is void."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _named(owner: str) -> str:
    number = owner.partition(" ")[0].strip()
    return f"process {number}" if number else "another process"


def require_held(workdir: Path) -> None:
    """Refuses to go on in a work directory whose lock is no more that of this process.

    Asked before anything is written: a directory that was moved must not appear again, and two
    processes must not write to one. Of several processes of one run the first has the lock.

    Raises:
        InputError: what became of the directory.
    """
    if not cluster.is_first():
        return
    owner, reason = "", f"lost its {LOCK}, which keeps other processes off"
    try:
        owner = _owner_of(workdir / LOCK)
    except FileNotFoundError:
        pass
    except OSError as error:  # as under a umask that lets nobody read
        reason = f"has a {LOCK} that cannot be read ({error.strerror})"
    if owner == _OWNER:
        return
    if not workdir.exists():
        reason = "was moved or removed, with all that was saved there"
    elif owner:
        reason = f"was taken by {_named(owner)}, since somebody removed {LOCK}"
    raise InputError(
        f"workdir {workdir}: it {reason}; this process stops and writes nothing more; the same "
        "command goes on from what was saved"
    )


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Checks that the directory is ours before something is written, and again afterwards.

    Raises:
        InputError: as `require_held`, or it lost the record of how it was made.
    """
    require_held(workdir)
    _require_recorded(workdir)
    try:
        yield
    except (InputError, OSError):
        require_held(workdir)
        raise
    _require_recorded(workdir)


def _require_recorded(workdir: Path) -> None:
    """Refuses to go on without the record: no later command would take the directory."""
    if cluster.is_first() and not (workdir / RECORD).exists():
        raise InputError(
            f"workdir {workdir}: it lost its {RECORD}, which tells how it was made; this process "
            f"stops and writes nothing more; put {RECORD} back, or choose another --workdir"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that we wrote; {} if there is no such file.

    Raises:
        InputError: the file is broken or holds something else.
    """
    if not path.exists():
        return {}
    document = files.read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(document).__name__}")
    return document


def text_of(path: Path, document: Mapping[str, Any]) -> str:
    """Makes the text of a JSON file of ours.

    Raises:
        InputError: with the path; a number is not finite, or something is no plain value.
    """
    try:
        return files.json_text(document, indent=1, sort_keys=True) + "\n"
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_parts(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a JSON object of objects that we wrote, one for each phase; {} if there is no file.

    Raises:
        InputError: as `read_json`, or a part is no object.
    """
    document = read_json(path)
    for name, part in document.items():
        if not isinstance(part, dict):
            raise InputError(f"{path}: {name!r}: expected an object, got a {type(part).__name__}")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON object in the place of what was there.

    Raises:
        InputError: as `text_of`.
    """
    files.write_text(path, text_of(path, document))


def update_json(path: Path, **entries: Any) -> None:
    """Replaces entries of a JSON object on disk, the others stay; the first process does."""
    if cluster.is_first():
        write_json(path, read_json(path) | entries)


def drop_json(path: Path, entry: str) -> None:
    """Removes an entry of a JSON object on disk, if it is there."""
    document = read_json(path)
    if entry in document:
        del document[entry]
        write_json(path, document)


def remove(*paths: Path) -> None:
    """Removes files, those that are there."""
    for path in paths:
        path.unlink(missing_ok=True)


def resume_curve(path: Path, start: int) -> None:
    """Makes the file of a curve, a JSON object a line; drops the points from after step `start`.

    As all writing of curves, the first process does it.
    """
    if not cluster.is_first():
        return
    points = [point for point in read_curve(path) if point["step"] <= start] if start else []
    files.write_text(path, "".join(files.json_text(point) + "\n" for point in points))


def append_point(path: Path, point: Mapping[str, Any]) -> None:
    """Appends a point, which has a 'step', to a curve."""
    if cluster.is_first():
        with files.naming(path), path.open("a") as file:
            file.write(files.json_text(point) + "\n")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Reads the points of a curve; a last line that a killed process left unfinished is dropped.

    Raises:
        InputError: the file cannot be read, or another line is no point.
    """
    points: list[dict[str, Any]] = []
    lines = files.read_text(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        point = _point(line)
        if point is not None:
            points.append(point)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: expected a point with 'step' and 'share'")
    return points


def _point(line: str) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
        files.json_text(point)  # of finite numbers alone
    except (ValueError, RecursionError):
        return None
    if not isinstance(point, dict):
        return None
    return point if is_number(point.get("step")) and is_number(point.get("share")) else None


def is_number(value: Any) -> bool:
    """Says whether a value of JSON is a finite number."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= sys.float_info.max

"""Files that appear whole or not at all, and the one writer and the one reader of JSON."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from domino_jax.core.errors import InputError

Pairs = list[tuple[str, Any]]

MOST_BYTES = 1 << 30  # of a text file: the names of a million images are 80 MB
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names a file in what the system says of it: of a full disk it names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once the block has ended well.

    A reader sees the old file or the new one, never a part; after a kill the temporary one, whose
    name is that of the file between dots, may stay.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8 with newlines as they are, that also survives a loss of power."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def kind_of(path: str | os.PathLike[str] | int) -> str:
    """Says what is at a path, or open under a number: 'a file', 'a folder', 'a pipe', 'a device'.

    Raises:
        OSError: there is nothing.
    """
    status = os.stat(path)  # noqa: PTH116 (of a number too)
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def read_text(path: str | os.PathLike[str], what: str = "a text file") -> str:
    """Reads a file of UTF-8 text, with or without a byte order mark.

    Raises:
        InputError: one line with the path; it cannot be read, is a folder, may never end as a pipe
            or a device, has more than `MOST_BYTES`, or is no UTF-8.
    """
    try:
        kind = kind_of(path)
        if kind not in ("a file", "a folder"):  # of a folder the system tells
            raise InputError(f"{path}: expected {what}, got {kind}")
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: expected {what} of at most {MOST_BYTES} bytes, got more")
        return content.decode("utf-8-sig")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: expected {what}, got none: {error.strerror}") from None
    except ValueError:  # not UTF-8, or a path that no file can have
        raise InputError(f"{path}: expected {what} of UTF-8 text") from None


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Writes plain values as JSON, which has no NaN and no infinity; all JSON of ours is made here.

    Raises:
        InputError: a number is not finite, or something is no plain value.
    """
    try:
        return json.dumps(value, allow_nan=False, indent=indent, sort_keys=sort_keys)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"not JSON, which has finite numbers, text, None, lists and objects: {error}"
        ) from None


def read_json(
    path: str | os.PathLike[str], *, of_pairs: Callable[[Pairs], dict[str, Any]] = dict
) -> Any:
    """Reads a JSON file: UTF-8, with or without a byte order mark.

    Args:
        path: of the file.
        of_pairs: makes an object of its keys and values; may raise an InputError.

    Raises:
        InputError: one line with the path; as `read_text`, or it is broken or nested too deeply.
    """
    text = read_text(path, "a JSON file")
    try:
        return json.loads(text, object_pairs_hook=of_pairs)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}: broken JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InputError(f"{path}: broken JSON: it is nested too deeply") from None
    except ValueError as error:  # a number of too many digits, or what `of_pairs` refuses
        raise InputError(f"{path}: {error}") from None


def digest_of(path: Path) -> str:
    """Returns 16 hexadecimal digits that depend on what a file, or all files of a folder, hold."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
        with file.open("rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]

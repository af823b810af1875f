"""What a step of a checkpoint holds, written beside its arrays and compared before they are read.

    leaves.json    dtype and shape of every leaf by path; size and CRC-32 of every file

Orbax casts and reshapes silently, and it does not notice a flipped bit in an array: paths, dtypes,
shapes and files are compared here.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.files import json_text, kind_of, read_json
from domino_jax.core.paths import leaves_by_path

FILE = "leaves.json"
_FORMAT = 1


class Spec(NamedTuple):
    """Dtype and shape of a leaf."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(size) for size in self.shape)}]"


class Manifest(NamedTuple):
    """What a step holds."""

    leaves: dict[str, Spec]
    files: dict[str, list[int]]  # path in the step's folder -> [bytes, CRC-32]


class Saved(NamedTuple):
    """A checkpoint that was found: its folder, what it holds, and how that is read.

    Attributes:
        folder: for messages.
        leaves: dtype and shape by path.
        read: (paths) -> their arrays.
    """

    folder: Path
    leaves: dict[str, Spec]
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by path.

    Raises:
        InputError: two leaves have the same path.
    """
    leaves = leaves_by_path(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise InputError("two leaves of the tree have the same path, such as keys 1 and '1'")
    return leaves


def spec_of(path: str, leaf: Any) -> Spec:
    """Reads dtype and shape of an array, a `jax.ShapeDtypeStruct` or a Python number.

    Raises:
        InputError: the leaf at this path is something else.
    """
    array = np.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf
    dtype = getattr(array, "dtype", None)
    numeric = dtype is not None and jax.dtypes.issubdtype(dtype, np.number)
    if not numeric and dtype != np.bool_:
        what = type(leaf).__name__ if dtype is None else dtype
        raise InputError(f"leaf {path!r}: checkpoints hold arrays of numbers or bools, not {what}")
    return Spec(str(dtype), tuple(array.shape))


def specs_of(leaves: Mapping[str, Any]) -> dict[str, Spec]:
    """Reads dtype and shape of leaves by path.

    Raises:
        InputError: as `spec_of`.
    """
    return {path: spec_of(path, leaf) for path, leaf in leaves.items()}


def write(folder: Path, specs: Mapping[str, Spec]) -> None:
    """Writes the manifest of a step whose files are all in its folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): _size_and_sum(path) for path in files}
    document = {"format": _FORMAT, "leaves": specs, "files": sums}
    (folder / FILE).write_text(json_text(document), encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Reads what a step holds.

    Raises:
        InputError: the folder is not a checkpoint of this program.
    """
    try:
        document = read_json(folder / FILE)
        if document["format"] != _FORMAT:
            raise InputError(f"{FILE}: expected format {_FORMAT}, got {document['format']!r}")
        specs = {
            path: Spec(dtype, tuple(shape)) for path, (dtype, shape) in document["leaves"].items()
        }
        files = dict(document["files"])
        pairs = (*files.values(), *(spec.shape for spec in specs.values()))
        if not all(type(number) is int for pair in pairs for number in pair):
            raise InputError(f"{FILE}: expected sizes and sums in whole numbers, got others")
        if not all(len(pair) == 2 for pair in files.values()):
            raise InputError(f"{FILE}: expected a size and a sum of each file, got others")
        return Manifest(specs, files)
    except InputError as error:
        reason = str(error)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{FILE}: {error}"
    raise InputError(f"{folder}: not a checkpoint of this program, or a damaged one ({reason})")


def require_same(folder: Path, saved: Mapping[str, Spec], expected: Mapping[str, Spec]) -> None:
    """Refuses leaves of other paths, dtypes or shapes.

    Raises:
        InputError: the first path that differs.
    """
    missing = [path for path in expected if path not in saved]
    extra = [path for path in saved if path not in expected]
    reasons = [f"lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    reasons += [f"has an unexpected {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if reasons:
        raise InputError(f"{folder}: the checkpoint {' and '.join(reasons)}")
    for path, spec in expected.items():
        if saved[path] != spec:
            raise InputError(f"{folder}: {path!r} is {saved[path]} here, expected {spec}")


def require_whole(folder: Path, files: Mapping[str, list[int]]) -> None:
    """Refuses a step of which a file is missing or other than when it was saved.

    Raises:
        InputError: the file, and what is wrong with it.
    """
    # Before Orbax reads them: on damaged files it prints hundreds of lines, or nothing at all.
    for name, expected in files.items():
        try:
            if (kind := kind_of(folder / name)) != "a file":  # a pipe may never end
                raise InputError(
                    f"{folder / name}: damaged checkpoint: expected a file, got {kind}"
                )
            actual = _size_and_sum(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name}: damaged checkpoint: {error.strerror}") from None
        if actual != expected:
            sums = " and ".join(
                f"{size} bytes, CRC-32 {crc:08x}" for size, crc in (expected, actual)
            )
            raise InputError(f"{folder / name}: damaged checkpoint: saved and found are {sums}")


def is_whole(folder: Path) -> bool:
    """Says whether a folder is a step that was written to its end and is not damaged."""
    try:
        require_whole(folder, read(folder).files)
    except InputError:
        return False
    return True


def _size_and_sum(path: Path) -> list[int]:
    size = total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size += len(block)
            total = zlib.crc32(block, total)
    return [size, total]

"""The source of Python's standard library, byte by byte: the next one is to be predicted.

What: every .py file of the running Python's own library folder (without site-packages,
dist-packages and __pycache__), under the PSF license. Nothing is downloaded or written: the files
are read into memory when the data set is opened, a tenth of a second.

Split: by file. A file tests if the SHA-256 of its path within the folder is divisible by 20, about
5 %. Of files with the same content only the first (by path) is kept, empty ones are left out. What
files have in common stays in both parts, as in any collection of source code (headers with
licenses, the tables of `encodings`, tests that are alike).

Python 3.11.7: 1,743 files; 1,646 of 29,734,572 bytes train, 97 of 1,790,776 bytes (5.7 %) test,
each with the byte 0 that ends a file. More than half of the bytes are the library's own tests. Of
the test windows of 128 bytes 3.4 % occur in a training file as they are.

The data are those of the Python that runs: another version has other files, and so have builds
that leave out `test`, `idlelib` or `tkinter`, as distributions do. Compare results only under the
same Python.

Letters: B rows of one batch, T bytes of an example.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.options import require_whole
from domino_jax.data.pipeline import Batch

_OTHERS = {"site-packages", "dist-packages", "__pycache__"}
_TEST_EVERY = 20  # files
_TEST_EXAMPLES = 1024
_TRAIN_SIZE, _TEST_SIZE = 29_734_572, 1_790_776  # bytes of Python 3.11.7, for `spec`
_END = b"\0"  # after each file; source code has none


def create(
    *, data_dir: str = "", workers: int = 0, length: int = 128, test_examples: int | None = None
) -> Data:
    """Opens the standard library as text of bytes.

    A training example is a window of the files, one after the other, that starts at a random byte
    of its T: an epoch shows about every byte once, in other windows than the epoch before.

    Args:
        data_dir: not used; nothing is on disk but Python itself.
        workers: not used; threads serve arrays in memory.
        length: T, bytes of an example.
        test_examples: windows that an evaluation reads, spread evenly over the test files; they
            do not overlap. None: 1024, or all there are if those are fewer.

    Returns:
        Inputs are int32 [B, T], labels the bytes that follow each, int32 [B, T]; 256 classes.
        `train_size` is the training bytes / T.

    Raises:
        InputError: `length` or `test_examples` is no whole number or out of range, or this Python
            has no source files.
    """
    del data_dir, workers
    train, test = _texts(Path(sysconfig.get_path("stdlib")))
    require_whole("length", length, 1, min(len(train), len(test)) - 1)
    most = (len(test) - 1) // length
    examples = _require_test_examples(test_examples, most)
    starts = np.arange(examples) * most // examples * length
    return Data(
        train=partial(
            train_arrays,
            {"start": np.arange(len(train) // length) * length},
            augment=partial(_start_anywhere, length, len(train)),
            finish=partial(_cut, train, length),
        ),
        evaluate=partial(evaluate_arrays, {"start": starts}, finish=partial(_cut, test, length)),
        example=jax.ShapeDtypeStruct((1, length), np.int32),
        classes=256,
        train_size=len(train) // length,
        test_size=examples,
        fingerprint=_fingerprint(train, test),
    )


def spec(
    *, data_dir: str = "", workers: int = 0, length: int = 128, test_examples: int | None = None
) -> Spec:
    """Describes the bytes of Python 3.11; no file is read. Arguments as for `create`."""
    del data_dir, workers
    require_whole("length", length, 1, _TEST_SIZE - 1)
    most = (_TEST_SIZE - 1) // length
    examples = _require_test_examples(test_examples, most)
    one = jax.ShapeDtypeStruct((1, length), np.int32)
    return Spec(one, one, 256, _TRAIN_SIZE // length, examples)


def _start_anywhere(length: int, size: int, batch: Batch, rng: np.random.Generator) -> Batch:
    """Moves each start by 0 to T - 1 bytes, so that the last label is still within the text."""
    moved = batch["start"] + rng.integers(length, size=len(batch["start"]))
    return {**batch, "start": np.minimum(moved, size - length - 1)}


def _cut(text: np.ndarray, length: int, batch: Batch) -> Batch:
    """Replaces 'start' [B] by 'inputs' and 'labels', int32 [B, T]."""
    others = {key: value for key, value in batch.items() if key != "start"}
    places = batch["start"][:, None] + np.arange(length + 1)[None]
    window = text[places].astype(np.int32)
    return {**others, "inputs": window[:, :-1], "labels": window[:, 1:]}


def _texts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training and the test text, uint8, a byte 0 after each file."""
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    try:
        for path, content in _files(folder):
            parts[_is_test(path)].append(content)
    except OSError as error:
        raise InputError(f"cannot read Python's standard library: {error}") from error
    if not all(parts.values()):
        raise InputError(
            f"{folder} holds too few .py files: this Python has its standard library elsewhere "
            "(zipped or compiled); use one with its source"
        )
    train, test = (b"".join(c + _END for c in parts[is_test]) for is_test in (False, True))
    return np.frombuffer(train, np.uint8), np.frombuffer(test, np.uint8)


def _fingerprint(*texts: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on every byte."""
    digests = b"".join(hashlib.sha256(text.data).digest() for text in texts)
    return hashlib.sha256(digests).hexdigest()[:16]


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields path within the folder ('json/decoder.py') and content, by path, none twice."""
    seen = {b""}
    for path in sorted(_paths(folder)):
        content = (folder / path).read_bytes()
        if content not in seen:
            seen.add(content)
            yield path, content


def _paths(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _OTHERS]
        inside = Path(root).relative_to(folder)
        yield from ((inside / name).as_posix() for name in files if name.endswith(".py"))


def _is_test(path: str) -> bool:
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
    return int(digest, 16) % _TEST_EVERY == 0


def _require_test_examples(test_examples: int | None, most: int) -> int:
    examples = min(_TEST_EXAMPLES, most) if test_examples is None else test_examples
    require_whole("test_examples", examples, 1, most)
    return examples

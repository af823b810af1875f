"""Text of one's own for a language model: the next token is to be predicted.

What: `data_dir` is a .txt, .md or .jsonl file, or a folder with such files, also in its subfolders.
A line of .jsonl is a document: an object with its 'text'. Tokens are those of `tokenizer`, a
tokenizer.json or the folder that holds one. Documents follow each other, with the tokenizer's end
of text between them where its tokenizer_config.json names one, and are cut into windows that do not
overlap; a window begins with the token that the tokenizer puts before every text, if it does.

Split: by file, the same for every machine: in the order of the SHA-256 of their paths the first
tenth of the files, at least one, test. The last tenth of a single file tests.

The text is read in pieces and the tokens lie in a temporary file, so text of any size takes little
memory. Letters: B rows of one batch, T tokens of an example.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec, tree
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.options import require_whole
from domino_jax.data.pipeline import Batch
from domino_jax.data.tokenizer import Words, read_words

SUFFIXES = (".txt", ".md", ".jsonl")
_TEST_SHARE = 10
_PIECE = 1 << 20  # characters that are tokenized at a time


def create(
    *,
    data_dir: str = "",
    workers: int = 0,
    tokenizer: str = "",
    length: int = 512,
    test_examples: int | None = None,
) -> Data:
    """Opens text.

    Args:
        data_dir: a file or a folder.
        workers: not used; threads serve tokens that are at hand.
        tokenizer: a tokenizer.json, or the folder that holds one.
        length: T, tokens of an example.
        test_examples: windows that an evaluation reads, spread evenly over the test text; None:
            all.

    Returns:
        Inputs are int32 [B, T], labels the tokens that follow each, int32 [B, T].

    Raises:
        InputError: one line; there is no text, or too little for one window of each part, no
            tokenizer, or an option is out of range.
    """
    del workers
    require_whole("length", length, 1)
    files = _files(data_dir)
    words = read_words(tokenizer)
    train, test = _split(files, words)
    windows = {}
    for name, tokens in (("training", train), ("test", test)):
        needed = length + (words.start is None)  # the first token of all is only an input then
        if len(tokens) < needed:
            raise InputError(
                f"data.dir {data_dir}: expected {needed:,} tokens or more of {name} text for a "
                f"window of data.length = {length}, got {len(tokens):,}"
            )
        windows[name] = (len(tokens) - (words.start is None)) // length
    examples = windows["test"] if test_examples is None else test_examples
    require_whole("test_examples", examples, 1, windows["test"])
    starts = np.arange(examples) * windows["test"] // examples * length
    return Data(
        train=partial(
            train_arrays,
            {"start": np.arange(windows["training"]) * length},
            finish=partial(_cut, train, words.start, length),
        ),
        evaluate=partial(
            evaluate_arrays, {"start": starts}, finish=partial(_cut, test, words.start, length)
        ),
        example=jax.ShapeDtypeStruct((1, length), np.int32),
        classes=words.size,
        train_size=windows["training"],
        test_size=examples,
        fingerprint=_fingerprint(train, test),
    )


def spec(
    *,
    data_dir: str = "",
    workers: int = 0,
    tokenizer: str = "",
    length: int = 512,
    test_examples: int | None = None,
) -> Spec:
    """Describes text, which is read for it. Arguments and errors as for `create`."""
    data = create(
        data_dir=data_dir,
        workers=workers,
        tokenizer=tokenizer,
        length=length,
        test_examples=test_examples,
    )
    return Spec(data.example, data.example, data.classes, data.train_size, data.test_size)


def _cut(tokens: np.ndarray, start: int | None, length: int, batch: Batch) -> Batch:
    """Replaces 'start' [B] by 'inputs' and 'labels', int32 [B, T]."""
    others = {key: value for key, value in batch.items() if key != "start"}
    places = batch["start"][:, None] + np.arange(length + (start is None))[None]
    window = tokens[places].astype(np.int32)
    if start is not None:
        window = np.pad(window, ((0, 0), (1, 0)), constant_values=start)
    return {**others, "inputs": window[:, :-1], "labels": window[:, 1:]}


def _files(data_dir: str) -> dict[str, Path]:
    """Lists the files of text: path within the folder -> path."""
    root = Path(data_dir)
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return {root.name: root}
    found = tree.files(root, SUFFIXES) if data_dir else {}
    if not found:
        raise InputError(
            f"data.dir: expected a file, or a folder with files, that end in "
            f"{', '.join(SUFFIXES)}, got {data_dir!r}"
        )
    return found


def _split(files: Mapping[str, Path], words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of the training and of the test text."""
    if len(files) == 1:
        tokens = _tokens(files.values(), words)
        kept = len(tokens) - len(tokens) // _TEST_SHARE
        return tokens[:kept], tokens[kept:]

    def digest(name: str) -> bytes:
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    tests = sorted(files, key=digest)[: max(1, len(files) // _TEST_SHARE)]
    parts = [path for name, path in files.items() if name not in tests]
    return _tokens(parts, words), _tokens([files[name] for name in files if name in tests], words)


def _tokens(paths: Iterable[Path], words: Words) -> np.ndarray:
    """Tokenizes files, one after the other, into a file that goes with the array: uint32."""
    with tempfile.TemporaryFile() as file:
        for path in paths:
            for tokens in _of_file(path, words):
                file.write(np.asarray(tokens, np.uint32).tobytes())
        file.flush()
        size = file.tell() // 4
        return np.memmap(file, np.uint32, "r", shape=(size,)) if size else np.zeros(0, np.uint32)


def _of_file(path: Path, words: Words) -> Iterator[Sequence[int]]:
    """Yields the tokens of a file, piece by piece, and the end after each document."""
    end = [] if words.end is None else [words.end]
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if text := _document(path, number, line):
                        yield [*words.encode(text), *end]
                return
            found = False
            while piece := file.read(_PIECE) + file.readline(_PIECE):
                yield words.encode_on(piece) if found else words.encode(piece)
                found = True
            if found:
                yield end
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _document(path: Path, number: int, line: str) -> str:
    """Reads one line of a .jsonl file; '' of an empty one."""
    try:
        document = json.loads(line) if line.strip() else {"text": ""}
    except (ValueError, RecursionError):
        raise InputError(f"{path}, line {number}: broken JSON") from None
    text = document.get("text") if isinstance(document, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"{path}, line {number}: expected an object with its 'text'")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair, such as "\\ud800", is JSON and no text
        raise InputError(f"{path}, line {number}: expected Unicode text") from None
    return text


def _fingerprint(*parts: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on every token."""
    digests = b"".join(hashlib.sha256(part.data).digest() for part in parts)
    return hashlib.sha256(digests).hexdigest()[:16]

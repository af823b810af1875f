"""A tokenizer.json of Hugging Face, what text needs of it, and its faults in one line."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from domino_jax.core.errors import InputError
from domino_jax.core.files import read_json

_STDERR = 2
_SEAM = "\n"  # what lies before a piece of a text


class Words(NamedTuple):
    """A tokenizer.

    Attributes:
        encode: text -> its tokens, without any around them.
        encode_on: the same of text that continues another one: where the tokenizer puts a space
            before every text, none is put before this one.
        start: token before every text; None: there is none.
        end: token after every document; None: there is none.
        size: different tokens.
    """

    encode: Callable[[str], Sequence[int]]
    encode_on: Callable[[str], Sequence[int]]
    start: int | None
    end: int | None
    size: int


def read_words(where: str) -> Words:
    """Reads a tokenizer.

    Args:
        where: a tokenizer.json, or the folder that holds one.

    Raises:
        InputError: one line; there is none, or it is broken.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 (a Rust library, for text alone)

    path = Path(where) / "tokenizer.json" if Path(where).is_dir() else Path(where)
    if not where or not path.is_file():
        raise InputError(
            f"data.tokenizer: expected a tokenizer.json or a folder that holds one, got {where!r}"
        )
    with _in_one_line(f"{path}: not a tokenizer.json, or damaged"):
        found = Tokenizer.from_file(str(path))
        found.no_truncation()
        found.no_padding()
        size = max(found.get_vocab(with_added_tokens=True).values(), default=0) + 1
    encode = partial(_encode, path, found)
    nothing, something = encode("")[:1], encode("a")[:1]
    start = nothing[0] if nothing and nothing == something else None
    name = _end_of_text(path.with_name("tokenizer_config.json"))
    with _in_one_line(f"{path}: cannot look up the end of text {name!r}"):
        end = found.token_to_id(name) if name else None
    bare = partial(encode, add_special_tokens=False)
    return Words(bare, _continued(bare), start, end, size)


def _encode(path: Path, tokenizer: Any, text: str, **options: bool) -> list[int]:
    """Turns text into tokens.

    Raises:
        InputError: the tokenizer cannot, such as one without a token for what it does not know.
    """
    with _in_one_line(f"{path}: cannot turn the text into tokens"):
        return list(tokenizer.encode(text, **options).ids)


def _continued(encode: Callable[[str], Sequence[int]]) -> Callable[[str], Sequence[int]]:
    """Returns what encodes a text that continues another one, which ended with a line.

    Llama-2's tokenizer, for one, begins each text with "▁": it encodes the end of a line and the
    text, and the tokens of the end of the line are cut off.
    """
    try:
        seam, alone, joined = (list(encode(text)) for text in (_SEAM, "a", f"{_SEAM}a"))
    except InputError:  # it does not know these letters
        return encode

    def after_seam(tokens: Sequence[int]) -> Sequence[int]:
        return tokens[len(seam) :] if tokens[: len(seam)] == seam else ()

    if joined == [*seam, *alone] or not after_seam(joined):
        return encode
    return lambda text: after_seam(encode(_SEAM + text)) or encode(text)


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Makes one line of an error, also of a panic: a BaseException, which Rust prints by itself.

    Raises:
        InputError: the tokenizer failed.
    """
    try:
        with _without_stderr():
            yield
    except BaseException as error:
        # The type of a panic cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{what}: {line}") from None


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drops what a call of Rust writes to file descriptor 2.

    The call holds Python's lock: what other threads print comes before or after it.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed, and nobody sees anything
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(sink)


def _end_of_text(path: Path) -> str:
    """Returns the token that ends a text; '' where none is named."""
    document = read_json(path) if os.path.lexists(path) else {}
    token = document.get("eos_token") if isinstance(document, Mapping) else None
    if isinstance(token, Mapping):  # an added token with its flags
        token = token.get("content")
    return token if isinstance(token, str) else ""

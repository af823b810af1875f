"""The text in which schemes were published with the paper: layers by position, without names."""

import ast
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM, Scheme

SUFFIX = ".txt"
_PUBLISHED_KEY = re.compile(r"(SparseConv|Linear)(\d+)_(\d+)-(\d+)(?:-(\(\d+(?:, \d+)*,?\)))?")

Signature = tuple[str, int, int, tuple[int, ...]]
"""(path, input channels, output channels, kernel window); the window of a linear layer is ()."""


class Published(NamedTuple):
    """One layer of the published text.

    Attributes:
        kind: 'conv' or 'linear'.
        cin: input channels.
        cout: output channels.
        kernel: window of the convolution; () for a linear layer.
        nm: weights kept and group size.
    """

    kind: str
    cin: int
    cout: int
    kernel: tuple[int, ...]
    nm: NM


def load_published(path: str | os.PathLike[str], signatures: Sequence[Signature]) -> Scheme:
    """Reads a file of the published text as the scheme of a network.

    Args:
        path: of the file.
        signatures: the layers of the network in order of first use.

    Raises:
        InputError: one line with the path; the file cannot be read, is no such text, or is of
            another network.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return from_published(read_published(text), signatures)
    except OSError as error:
        raise InputError(f"{path}: cannot read the scheme: {error.strerror}") from None
    except ValueError as error:  # no UTF-8 text too
        raise InputError(f"{path}: {error}") from None


def read_published(text: str) -> list[Published]:
    """Reads the text that was published with the paper: {'SparseConv0_3-64-(7, 7)': [16, 16], …}.

    Raises:
        InputError: one line; the text is no such dictionary, or an entry is malformed, out of
            turn (each kind counts from 0) or has N outside 1..M.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (RecursionError, MemoryError):  # as Python's parser says it
        raise InputError("not a published scheme: it is nested too deeply") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        raise InputError(f"not a published scheme: {reason} at line {line}") from None
    if not isinstance(tree, ast.Dict):
        raise InputError("not a published scheme: expected {'SparseConv0_…': [N, M], …}")
    counts = {"SparseConv": 0, "Linear": 0}
    entries = []
    for position, (key, value) in enumerate(zip(tree.keys, tree.values, strict=True)):
        try:
            entries.append(_published_entry(_literal(key), _literal(value), counts))
        except ValueError as error:
            raise InputError(f"entry {position} of the published scheme: {error}") from None
    return entries


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise InputError("neither names nor numbers") from None


def _published_entry(key: Any, value: Any, counts: dict[str, int]) -> Published:
    """Reads one entry and counts it in `counts`."""
    match = _PUBLISHED_KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None or (match[1] == "SparseConv") != (match[5] is not None):
        example = "'SparseConv0_3-64-(7, 7)' or 'Linear0_512-10'"
        raise InputError(f"expected a name like {example}, got {key!r}")
    if int(match[2]) != counts[match[1]]:
        raise InputError(f"expected {match[1]}{counts[match[1]]}, got {key!r}")
    counts[match[1]] += 1
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{key!r}: expected [N, M], got {value!r}")
    try:
        nm = NM(*value)
    except ValueError as error:
        raise InputError(f"{key!r}: {error}") from None
    kernel = () if match[5] is None else tuple(int(size) for size in re.findall(r"\d+", match[5]))
    kind = "linear" if match[5] is None else "conv"
    return Published(kind, int(match[3]), int(match[4]), kernel, nm)


def from_published(entries: Sequence[Published], signatures: Sequence[Signature]) -> Scheme:
    """Gives the entries of the published text, one by one, to the layers of a network.

    Args:
        entries: as `read_published` returns them.
        signatures: the layers in order of first use.

    Raises:
        InputError: the numbers of layers differ; or the shapes at one position do: with the
            position, the layer's path and both shapes; or a path is there twice.
    """
    if len(entries) != len(signatures):
        raise InputError(
            f"expected {len(signatures)} layers, as the network has, got {len(entries)}"
        )
    scheme: dict[str, NM] = {}
    for position, (entry, (path, *shape)) in enumerate(zip(entries, signatures, strict=True)):
        theirs = [entry.cin, entry.cout, entry.kernel]
        if theirs != shape:
            raise InputError(
                f"layer {position}, {path!r}: (inputs, outputs, kernel) is {_show(shape)} in the "
                f"network, {_show(theirs)} in the published scheme"
            )
        if path in scheme:
            raise InputError(f"layer {position}, {path!r}: this path was there before")
        scheme[path] = entry.nm
    return scheme


def _show(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(part) for part in shape)})"

"""Which N:M every layer has, as a value, as a JSON file and as the published text.

N is the number of weights kept in each group of M; N == M is dense. The order of a scheme's
layers is the order of their first use in the network: the published text has no names but that.
"""

import ast
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from domino_jax.files import write_text

FORMAT = 1
_KEYS = ("format", "order", "layers")
_PUBLISHED_KEY = re.compile(r"(SparseConv|Linear)(\d+)_(\d+)-(\d+)(?:-(\(\d+(?:, \d+)*,?\)))?")


@dataclass(frozen=True)
class NM:
    """N weights kept of every M.

    Raises:
        ValueError: n or m is not an integer, or n is outside 1..m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for value in (self.n, self.m):
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"N:M takes two integers, got {value!r}")
        if not 1 <= self.n <= self.m:
            raise ValueError(f"N:M needs 1 <= N <= M, got {self.n}:{self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> "NM":
        """Reads the form '2:4'.

        Raises:
            ValueError: the text has another form, or N is outside 1..M.
        """
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text, re.ASCII)
        if match is None:
            raise ValueError(f"N:M is written like 2:4, got {text!r}")
        return cls(int(match[1]), int(match[2]))


Scheme = Mapping[str, NM]
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


def require_fits(scheme: Scheme, names: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Refuses a scheme whose layers are not exactly the given ones, in any order.

    Args:
        scheme: the layers.
        names: those it must have.
        optional: those it may have besides.

    Raises:
        ValueError: the first layer that the scheme lacks and the first that the network lacks.
    """
    names = list(names)
    known = {*names, *optional}
    missing = [name for name in names if name not in scheme]
    extra = [name for name in scheme if name not in known]
    faults = [f"it lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    faults += [f"the network has no {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if faults:
        raise ValueError(f"the scheme is of another network: {' and '.join(faults)}")


def save(path: str | os.PathLike[str], scheme: Scheme, /, **extra: Any) -> None:
    """Writes a scheme as JSON, whole or not at all; missing folders are made.

    Args:
        path: of the file; an old file is replaced.
        scheme: the layers, in their order.
        **extra: further entries of the document, such as model, objective, budget, achieved,
            steps, config and versions; plain JSON values.

    Raises:
        ValueError: an extra entry has a reserved name or is not plain JSON.
    """
    lines = [f'"format": {FORMAT}']
    for key, value in extra.items():
        if key in _KEYS:
            raise ValueError(f"{key!r} is a reserved name, as are {', '.join(_KEYS)}")
        try:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"entry {key!r} of the scheme file is not JSON: {error}") from None
    lines.append(f'"order": {json.dumps(list(scheme))}')
    rows = [f'{json.dumps(name)}: {{"n": {nm.n}, "m": {nm.m}}}' for name, nm in scheme.items()]
    lines.append('"layers": {\n    ' + ",\n    ".join(rows) + "\n  }" if rows else '"layers": {}')
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "{\n  " + ",\n  ".join(lines) + "\n}\n")


def load(path: str | os.PathLike[str]) -> Scheme:
    """Reads the scheme of a JSON file that `save` wrote, its layers in their order.

    Raises:
        ValueError: as `load_document`.
    """
    document = load_document(path)
    return {name: NM(**document["layers"][name]) for name in document["order"]}


def load_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks the whole document of a scheme file, the extra entries included.

    Raises:
        ValueError: the file cannot be read, is not JSON, has another format number, lacks an
            entry, has N outside 1..M, or `order` and `layers` disagree; one line, with the path.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = json.loads(text, object_pairs_hook=_once)
        _require_document(document)
    except OSError as error:
        raise ValueError(f"{path}: cannot read the scheme: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a scheme: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: not JSON: {error.msg} at {where}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; json itself would let the last of two equal keys win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _require_document(document: Any) -> None:
    if not isinstance(document, dict):
        raise ValueError(f"a scheme file holds a JSON object, got a {type(document).__name__}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise ValueError(f"not a scheme: the entry {missing[0]!r} is missing")
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r} is unknown; this program reads {FORMAT}")
    order, layers = document["order"], document["layers"]
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise ValueError("'order' must be a list of layer names")
    if not isinstance(layers, dict):
        raise ValueError("'layers' must be an object of layer name to N and M")
    for name, entry in layers.items():
        if not isinstance(entry, dict) or set(entry) != {"n", "m"}:
            raise ValueError(f'layer {name!r}: expected {{"n": …, "m": …}}, got {entry!r}')
        try:
            NM(**entry)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    _require_same_names(order, layers)


def _require_same_names(order: list[str], layers: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for name in order:
        if name in seen:
            raise ValueError(f"'order' names {name!r} twice")
        if name not in layers:
            raise ValueError(f"'order' names {name!r}, which 'layers' lacks")
        seen.add(name)
    for name in layers:
        if name not in seen:
            raise ValueError(f"'layers' has {name!r}, which 'order' lacks")


def read_published(text: str) -> list[Published]:
    """Reads the text that was published with the paper: {'SparseConv0_3-64-(7, 7)': [16, 16], …}.

    Raises:
        ValueError: one line; the text is no such dictionary, or an entry is malformed, out of
            turn (each kind counts from 0) or has N outside 1..M.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        raise ValueError(f"not a published scheme: {reason} at line {line}") from None
    if not isinstance(tree, ast.Dict):
        raise ValueError("not a published scheme: expected {'SparseConv0_…': [N, M], …}")
    counts = {"SparseConv": 0, "Linear": 0}
    entries = []
    for position, (key, value) in enumerate(zip(tree.keys, tree.values, strict=True)):
        try:
            entries.append(_published_entry(_literal(key), _literal(value), counts))
        except ValueError as error:
            raise ValueError(f"entry {position} of the published scheme: {error}") from None
    return entries


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ValueError("neither names nor numbers") from None


def _published_entry(key: Any, value: Any, counts: dict[str, int]) -> Published:
    """Reads one entry and counts it in `counts`."""
    match = _PUBLISHED_KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None or (match[1] == "SparseConv") != (match[5] is not None):
        example = "'SparseConv0_3-64-(7, 7)' or 'Linear0_512-10'"
        raise ValueError(f"a name is like {example}, got {key!r}")
    if int(match[2]) != counts[match[1]]:
        raise ValueError(f"expected {match[1]}{counts[match[1]]}, got {key!r}")
    counts[match[1]] += 1
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{key!r} needs [N, M], got {value!r}")
    try:
        nm = NM(*value)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None
    kernel = () if match[5] is None else tuple(int(size) for size in re.findall(r"\d+", match[5]))
    kind = "linear" if match[5] is None else "conv"
    return Published(kind, int(match[3]), int(match[4]), kernel, nm)


def from_published(entries: Sequence[Published], signatures: Sequence[Signature]) -> Scheme:
    """Gives the entries of the published text, one by one, to the layers of a network.

    Args:
        entries: as `read_published` returns them.
        signatures: the layers in order of first use.

    Raises:
        ValueError: the numbers of layers differ; or the shapes at one position do: with the
            position, the layer's path and both shapes; or a path is there twice.
    """
    if len(entries) != len(signatures):
        raise ValueError(
            f"the published scheme has {len(entries)} layers, the network {len(signatures)}"
        )
    scheme: dict[str, NM] = {}
    for position, (entry, (path, *shape)) in enumerate(zip(entries, signatures, strict=True)):
        theirs = [entry.cin, entry.cout, entry.kernel]
        if theirs != shape:
            raise ValueError(
                f"layer {position}, {path!r}: (inputs, outputs, kernel) is {_show(shape)} in the "
                f"network, {_show(theirs)} in the published scheme"
            )
        if path in scheme:
            raise ValueError(f"layer {position}, {path!r}: this path was there before")
        scheme[path] = entry.nm
    return scheme


def _show(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(part) for part in shape)})"


def to_published(scheme: Scheme, signatures: Sequence[Signature]) -> str:
    """Writes a scheme as the published text, one line with a newline at its end.

    Args:
        scheme: the layers.
        signatures: the same layers in order of first use.

    Raises:
        ValueError: the scheme and the signatures name different layers.
    """
    require_fits(scheme, [path for path, *_ in signatures])
    counts = {"SparseConv": 0, "Linear": 0}
    entries = {}
    for path, cin, cout, kernel in signatures:
        kind = "SparseConv" if kernel else "Linear"
        window = f"-{tuple(kernel)}" if kernel else ""
        entries[f"{kind}{counts[kind]}_{cin}-{cout}{window}"] = [scheme[path].n, scheme[path].m]
        counts[kind] += 1
    return f"{entries}\n"

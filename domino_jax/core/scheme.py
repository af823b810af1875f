"""Which N:M every layer has, as a value and as a JSON file.

N is the number of weights kept in each group of M; N == M is dense. The order of a scheme's
layers is the order of their first use in the network: the published text has no names but that.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_jax.core.errors import InputError
from domino_jax.core.files import json_text, read_json, write_text

FORMAT = 1
_KEYS = ("format", "order", "layers")


@dataclass(frozen=True)
class NM:
    """N weights kept of every M.

    Raises:
        InputError: n or m is not an integer, or n is outside 1..m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for value in (self.n, self.m):
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"N:M takes two integers, got {value!r}")
        if not 1 <= self.n <= self.m:
            raise InputError(f"N:M needs 1 <= N <= M, got {self.n}:{self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> "NM":
        """Reads the form '2:4'.

        Raises:
            InputError: the text has another form, or N is outside 1..M.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise InputError(f"N:M is written like 2:4, got {text!r}")
        return cls(int(match[1]), int(match[2]))


Scheme = Mapping[str, NM]


def require_scheme(scheme: Any) -> None:
    """Refuses what is no scheme: what `exact_scheme` returns has one.

    Raises:
        InputError: what came, and what to do.
    """
    if not isinstance(scheme, Mapping):
        take = "; take its .scheme" if hasattr(scheme, "scheme") else ""
        kind = type(scheme).__name__
        raise InputError(f"scheme: expected a mapping of layer to N:M, got {kind}{take}")


def require_fits(scheme: Scheme, names: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Refuses a scheme whose layers are not exactly the given ones, in any order.

    Args:
        scheme: the layers.
        names: those it must have.
        optional: those it may have besides.

    Raises:
        InputError: it is no mapping; or the first layer that the scheme lacks and the first that
            the network lacks.
    """
    require_scheme(scheme)
    names = list(names)
    known = {*names, *optional}
    missing = [name for name in names if name not in scheme]
    extra = [name for name in scheme if name not in known]
    faults = [f"it lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    faults += [f"the network has no {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if faults:
        raise InputError(f"the scheme is of another network: {' and '.join(faults)}")


def save(path: str | os.PathLike[str], scheme: Scheme, /, **extra: Any) -> None:
    """Writes a scheme as JSON, whole or not at all; missing folders are made.

    Args:
        path: of the file; an old file is replaced.
        scheme: the layers, in their order.
        **extra: further entries of the document, such as model, objective, budget, achieved,
            steps, config and versions; plain JSON values.

    Raises:
        InputError: it is no mapping, or an extra entry has a reserved name or is not plain JSON.
    """
    require_scheme(scheme)
    lines = [f'"format": {FORMAT}']
    for key, value in extra.items():
        if key in _KEYS:
            raise InputError(f"{key!r} is a reserved name, as are {', '.join(_KEYS)}")
        try:
            lines.append(f"{json_text(key)}: {json_text(value)}")
        except InputError as error:
            raise InputError(f"entry {key!r} of the scheme file: {error}") from None
    lines.append(f'"order": {json_text(list(scheme))}')
    rows = [f'{json_text(name)}: {{"n": {nm.n}, "m": {nm.m}}}' for name, nm in scheme.items()]
    lines.append('"layers": {\n    ' + ",\n    ".join(rows) + "\n  }" if rows else '"layers": {}')
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "{\n  " + ",\n  ".join(lines) + "\n}\n")


def load(path: str | os.PathLike[str]) -> Scheme:
    """Reads the scheme of a JSON file that `save` wrote, its layers in their order.

    Raises:
        InputError: as `load_document`.
    """
    document = load_document(path)
    return {name: NM(**document["layers"][name]) for name in document["order"]}


def load_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks the whole document of a scheme file, the extra entries included.

    Raises:
        InputError: the file cannot be read, is not JSON, has another format number, lacks an
            entry, has N outside 1..M, or `order` and `layers` disagree; one line, with the path.
    """
    document = read_json(path, of_pairs=_once)
    try:
        _require_document(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; json itself would let the last of two equal keys win."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"the key {twice!r} is there twice")
    return entries


def _require_document(document: Any) -> None:
    if not isinstance(document, dict):
        raise InputError(f"expected a JSON object, got a {type(document).__name__}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise InputError(f"not a scheme: the entry {missing[0]!r} is missing")
    if document["format"] != FORMAT:
        raise InputError(
            f"expected format {FORMAT}, which this program reads, got {document['format']!r}"
        )
    order, layers = document["order"], document["layers"]
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise InputError("'order': expected a list of layer names")
    if not isinstance(layers, dict):
        raise InputError("'layers': expected an object of layer name to N and M")
    for name, entry in layers.items():
        if not isinstance(entry, dict) or set(entry) != {"n", "m"}:
            raise InputError(f'layer {name!r}: expected {{"n": …, "m": …}}, got {entry!r}')
        try:
            NM(**entry)
        except ValueError as error:
            raise InputError(f"layer {name!r}: {error}") from None
    _require_same_names(order, layers)


def _require_same_names(order: list[str], layers: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for name in order:
        if name in seen:
            raise InputError(f"'order' names {name!r} twice")
        if name not in layers:
            raise InputError(f"'order' names {name!r}, which 'layers' lacks")
        seen.add(name)
    for name in layers:
        if name not in seen:
            raise InputError(f"'layers' has {name!r}, which 'order' lacks")

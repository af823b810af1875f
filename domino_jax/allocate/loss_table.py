"""How much the loss rises when one layer keeps n of every M: as a value and as a JSON file.

    {"format": 1, "layers": {"fc/kernel": {"1": 0.61, "2": 0.2, "4": 0.03}, ...}, ...}

Further entries say where the numbers come from; nothing reads them. A table may be measured on
another machine or by a method of one's own. n = M is dense: it raises nothing and may be left out.
"""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from domino_jax.core.costs import is_real
from domino_jax.core.errors import InputError
from domino_jax.core.files import json_text, read_json
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import Scheme, require_fits

LossTable = Mapping[str, Mapping[int, float]]  # layer name -> {n: rise of the loss}

FORMAT = 1


def without_noise(losses: Mapping[int, float]) -> dict[int, float]:
    """Makes measured losses fall with n, down to 0: what keeps more never loses more.

    An n loses what the best n of as few or fewer weights loses; what gains something loses nothing.
    """
    clean: dict[int, float] = {}
    least = math.inf
    for n in sorted(losses):
        least = min(least, losses[n])
        clean[n] = max(least, 0.0)
    return clean


def predicted(table: LossTable, scheme: Scheme) -> float:
    """Adds up what each layer's N:M costs by itself: the loss that the table expects."""
    return math.fsum(table[name][nm.n] for name, nm in scheme.items() if nm.n < nm.m)


def require_table(table: Mapping[str, Any], layers: Iterable[LayerSpec]) -> LossTable:
    """Checks a table against the layers of a network; keeps their candidates, in order.

    Raises:
        InputError: the table is of another network, lacks a candidate, or a loss is no number of 0
            or more or rises with n; with the layer's name.
    """
    movable = grouped(layers)
    try:
        require_fits(table, [layer.name for layer in movable])
    except InputError as error:
        raise InputError(str(error).replace("the scheme", "the loss table", 1)) from None
    return {layer.name: _row(layer, table[layer.name]) for layer in movable}


def written(table: LossTable, **extra: Any) -> str:
    """Writes a table as the JSON text of a file.

    Args:
        table: layer by layer.
        **extra: plain JSON values that say where the numbers come from.
    """
    layers = {name: {str(n): loss for n, loss in row.items()} for name, row in table.items()}
    rows = ",\n".join(f"    {json_text(name)}: {json_text(row)}" for name, row in layers.items())
    entries = [f'  "format": {FORMAT}']
    entries += [f"  {json_text(key)}: {json_text(value)}" for key, value in extra.items()]
    entries.append('  "layers": {\n' + rows + "\n  }")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def read_table(path: Path, layers: Iterable[LayerSpec]) -> LossTable:
    """Reads the table of a JSON file for the layers of a network.

    Raises:
        InputError: the file cannot be read or holds no table, or as `require_table`; one line, with
            the path.
    """
    document = read_json(path)
    try:
        return require_table(_layers_of(document), layers)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _layers_of(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict) or not isinstance(document.get("layers"), dict):
        raise InputError('expected a loss table {"format": 1, "layers": {layer: {n: loss}}}')
    if document.get("format") != FORMAT:
        raise InputError(
            f"expected a loss table of format {FORMAT}, got format {document.get('format')!r}"
        )
    return document["layers"]


def _row(layer: LayerSpec, given: Any) -> dict[int, float]:
    if not isinstance(given, Mapping):
        raise InputError(f"{layer.name}: expected {{n: loss}} in the loss table, got {given!r}")
    losses = {_count(layer, n): _loss(layer, n, value) for n, value in given.items()}
    losses.setdefault(layer.m, 0.0)
    missing = [n for n in layer.candidates if n not in losses]
    if missing or max(losses) > layer.m:
        raise InputError(
            f"{layer.name}: expected a loss for every candidate n = {_listed(layer.candidates)} of "
            f"M = {layer.m} in the loss table, got n = {_listed(sorted(losses))}"
        )
    for less, more in pairwise(sorted(losses)):
        if losses[more] > losses[less]:
            raise InputError(
                f"{layer.name}: expected losses that do not rise with n in the loss table, got "
                f"{losses[less]:g} at n = {less} and {losses[more]:g} at n = {more}"
            )
    return {n: losses[n] for n in layer.candidates}


def _count(layer: LayerSpec, n: Any) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", str(n), re.ASCII):
        raise InputError(f"{layer.name}: expected {{n: loss}} in the loss table, got n = {n!r}")
    return int(n)


def _loss(layer: LayerSpec, n: Any, value: Any) -> float:
    if not is_real(value) or value < 0:
        raise InputError(
            f"{layer.name}: expected losses of 0 or more in the loss table, got {value!r} for {n}"
        )
    return float(value)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))

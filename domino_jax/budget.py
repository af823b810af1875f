"""What a scheme costs, exactly, and the lowest cost that the candidates allow.

A cost is a function of a layer and the number n of weights it keeps of every M (None: dense).
Counts are Python integers, because multiply-adds overflow int32; measured costs are Fractions.
The denominator of every budget is all convolution and matrix-product layers found, those kept
dense included; biases, norms and tables that are only looked up are outside.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.layers import LayerSpec
from domino_jax.named import require_known
from domino_jax.scheme import NM, Scheme

Number = int | Fraction
Cost = Callable[[LayerSpec, int | None], Number]


def exact(value: float) -> Fraction:
    """Reads a float as the decimal it is written as: 0.2 is 1/5."""
    return Fraction(repr(float(value)))


def counted(layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Lists the convolutions and matrix products: the denominator of every budget."""
    return [spec for spec in layers if spec.axes is not None]


def grouped(layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Lists the layers that have groups of M, in order."""
    return [spec for spec in layers if spec.axes is not None and not spec.reason]


def leaves(layers: Iterable[LayerSpec]) -> dict[str, list[LayerSpec]]:
    """Gathers the grouped layers by the kernel they lie in: one for each slice of a stack."""
    found: dict[str, list[LayerSpec]] = {}
    for spec in grouped(layers):
        found.setdefault(spec.path, []).append(spec)
    return {path: sorted(specs, key=lambda s: s.index or 0) for path, specs in found.items()}


def inputs_of(spec: LayerSpec) -> int:
    """Counts the weights along the input axes of a layer."""
    if spec.axes is None:
        raise ValueError(f"{spec.name}: no convolution or matrix product, so it has no inputs")
    kept_axes = sorted(spec.axes.window + spec.axes.inputs + spec.axes.outputs)
    return math.prod(spec.shape[kept_axes.index(a)] for a in spec.axes.inputs)


def group_count(spec: LayerSpec) -> int:
    """Counts the groups of M weights of a grouped layer, a short last one included."""
    inputs = inputs_of(spec)
    return spec.size // inputs * -(-inputs // spec.m)


def weights(spec: LayerSpec, n: int | None = None) -> int:
    """Counts the weights that a layer keeps; a short last group keeps at most what it has."""
    if n is None or spec.reason:
        return spec.size
    inputs = inputs_of(spec)
    full, rest = divmod(inputs, spec.m)
    return spec.size // inputs * (full * n + min(n, rest))


def macs(spec: LayerSpec, n: int | None = None) -> int:
    """Counts the multiply-adds of one example that a layer keeps, rounded up if shares are odd."""
    return -(-spec.macs * weights(spec, n) // spec.size)


def table_cost(table: Mapping[str, Any], layers: Iterable[LayerSpec]) -> Cost:
    """Makes a cost of measured numbers, such as milliseconds.

    Args:
        table: path -> {n: cost} for every candidate and M, or path -> cost of the dense layer,
            which then scales with n/m. Layers that stay dense may be absent: they cost nothing.
        layers: the layers that the table is for.

    Raises:
        ValueError: a layer or candidate is missing, or a path or a number is wrong.
    """
    specs = {spec.name: spec for spec in counted(layers)}
    require_known(table, list(specs), what="layer in the cost table")
    costs: dict[str, dict[int | None, Fraction]] = {}
    for name, spec in specs.items():
        if name not in table:
            if not spec.reason:
                raise ValueError(f"cost table: no entry for {name}; it has {len(table)} entries")
            costs[name] = {None: Fraction(0)}
        else:
            costs[name] = _entry(spec, table[name])
    return lambda spec, n: costs[spec.name][None if spec.reason or n == spec.m else n]


def read_table(path: str, layers: Iterable[LayerSpec]) -> Cost:
    """Reads a JSON cost table.

    Raises:
        ValueError: the file is missing or no such table.
    """
    try:
        table = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(
            f"objective: 'params', 'macs' or the path of a JSON cost table; got {path!r} "
            f"({error.strerror})"
        ) from None
    except ValueError as error:
        raise ValueError(f"cost table {path}: broken JSON ({error})") from None
    if not isinstance(table, dict):
        raise ValueError(f"cost table {path}: an object {{path: {{n: cost}}}} is wanted")
    return table_cost(table, layers)


def total(layers: Iterable[LayerSpec], cost: Cost, scheme: Scheme | None = None) -> Number:
    """Adds up the cost of a scheme; of the dense network if there is none."""
    scheme = scheme or {}
    return sum(
        cost(spec, scheme[spec.name].n if spec.name in scheme else None) for spec in counted(layers)
    )


def lowest(layers: Iterable[LayerSpec], cost: Cost) -> Number:
    """Adds up the lowest cost of each layer over its candidates."""
    return sum(
        min(cost(spec, n) for n in spec.candidates) if not spec.reason else cost(spec, None)
        for spec in counted(layers)
    )


def uniform(layers: Iterable[LayerSpec], n: int) -> Scheme:
    """Gives every grouped layer the same n of its M.

    Raises:
        ValueError: n is not within 1..M of a layer.
    """
    return {spec.name: NM(n, spec.m) for spec in grouped(layers)}


def levels(scheme: Scheme, layers: Iterable[LayerSpec]) -> dict[str, np.ndarray]:
    """Turns a scheme into the n of each kernel that the mask functions read.

    Returns:
        path -> int32, the shape of the kernel's stack axes.

    Raises:
        ValueError: a grouped layer is missing, its M differs, or the scheme names another layer.
    """
    require_known(scheme, [spec.name for spec in grouped(layers)], what="layer in the scheme")
    found = {}
    for path, specs in leaves(layers).items():
        for spec in specs:
            if spec.name not in scheme:
                raise ValueError(f"scheme: no entry for {spec.name}")
            if scheme[spec.name].m != spec.m:
                raise ValueError(f"{spec.name}: scheme has M = {scheme[spec.name].m}, not {spec.m}")
        values = [scheme[spec.name].n for spec in specs]
        found[path] = np.array(values, np.int32).reshape(stack_shape(specs))
    return found


def stack_shape(specs: list[LayerSpec]) -> tuple[int, ...]:
    """Returns the shape of n for one kernel: () or (slices,)."""
    return () if specs[0].index is None else (len(specs),)


def _entry(spec: LayerSpec, given: Any) -> dict[int | None, Fraction]:
    wanted = spec.candidates if not spec.reason else ()
    if isinstance(given, dict):
        try:
            known = {int(n): exact(value) for n, value in given.items()}
        except (TypeError, ValueError):
            raise ValueError(f"cost table: {spec.name}: {{n: cost}} of numbers wanted") from None
        missing = [n for n in wanted if n not in known]
        if missing or not known:
            raise ValueError(f"cost table: {spec.name}: no cost for n = {missing}; has {[*known]}")
        found: dict[int | None, Fraction] = {n: known[n] for n in wanted}
        found[None] = known[spec.m] if wanted else known[max(known)]
    elif isinstance(given, int | float) and not isinstance(given, bool):
        found = {n: exact(given) * n / spec.m for n in wanted}
        found[None] = exact(given)
    else:
        raise ValueError(f"cost table: {spec.name}: a number or {{n: cost}} wanted, got {given!r}")
    bad = [float(value) for value in found.values() if value < 0]
    if bad:
        raise ValueError(f"cost table: {spec.name}: costs are 0 or more, got {bad[0]}")
    return found

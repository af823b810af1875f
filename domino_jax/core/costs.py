"""What a scheme costs, exactly, and the lowest cost that the candidates allow.

A cost is a function of a layer and the number n of weights it keeps of every M (None: dense).
Counts are Python integers, because multiply-adds overflow int32; measured costs are Fractions.
The denominator of every budget is all convolution and matrix-product layers found, those kept
dense included; biases, norms and tables that are only looked up are outside.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masks import Axes
from domino_jax.core.paths import require_known
from domino_jax.core.published import Signature
from domino_jax.core.scheme import NM, Scheme, require_fits

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


class Kernel(NamedTuple):
    """One grouped parameter: a layer, or a stack of them.

    Attributes:
        axes: parts that its axes play.
        m: group size.
        slices: the layers in it, by slice, those that stay dense included.
    """

    axes: Axes
    m: int
    slices: tuple[LayerSpec, ...]


def kernels(layers: Iterable[LayerSpec]) -> dict[str, Kernel]:
    """Gathers the parameters that hold grouped layers, in the order of first use."""
    layers = tuple(layers)
    found: dict[str, Kernel] = {}
    for spec in grouped(layers):
        if spec.axes is not None and spec.path not in found:  # grouped: its axes are never None
            slices = [other for other in counted(layers) if other.path == spec.path]
            slices.sort(key=lambda s: s.index or 0)
            found[spec.path] = Kernel(spec.axes, spec.m, tuple(slices))
    return found


def inputs_of(spec: LayerSpec) -> int:
    """Counts the weights along the input axes of a layer."""
    if spec.axes is None:
        raise InputError(f"{spec.name}: no convolution or matrix product, so it has no inputs")
    return math.prod(_sizes(spec, spec.axes, spec.axes.inputs))


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
        InputError: a layer or candidate is missing, or a path or a number is wrong.
    """
    specs = {spec.name: spec for spec in counted(layers)}
    require_known(table, list(specs), what="layer in the cost table")
    costs: dict[str, dict[int | None, Fraction]] = {}
    for name, spec in specs.items():
        if name not in table:
            if not spec.reason:
                raise InputError(f"cost table: no entry for {name}; it has {len(table)} entries")
            costs[name] = {None: Fraction(0)}
        else:
            costs[name] = _entry(spec, table[name])
    if not any(cost[None] for cost in costs.values()):
        raise InputError("cost table: the dense network costs 0, so no share of it can be kept")
    return lambda spec, n: costs[spec.name][None if spec.reason or n == spec.m else n]


def read_table(path: str, layers: Iterable[LayerSpec]) -> Cost:
    """Reads a JSON cost table.

    Raises:
        InputError: the file is missing or no such table.
    """
    try:
        table = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(
            f"objective: 'params', 'macs' or the path of a JSON cost table; got {path!r} "
            f"({error.strerror})"
        ) from None
    except ValueError as error:
        raise InputError(f"cost table {path}: broken JSON ({error})") from None
    if not isinstance(table, dict):
        raise InputError(f"cost table {path}: an object {{path: {{n: cost}}}} is wanted")
    return table_cost(table, layers)


def total(layers: Iterable[LayerSpec], cost: Cost, scheme: Scheme | None = None) -> Number:
    """Adds up the cost of a scheme; of the dense network if there is none.

    A layer that the scheme does not name or that stays dense counts in full; `levels` refuses a
    scheme that names other layers or prunes one that stays dense.
    """
    scheme = scheme or {}
    return sum(
        cost(spec, scheme[spec.name].n if spec.name in scheme else None) for spec in counted(layers)
    )


def share(layers: Iterable[LayerSpec], cost: Cost, scheme: Scheme) -> float:
    """Returns the cost of a scheme as a share of that of the dense network."""
    layers = tuple(layers)
    return float(total(layers, cost, scheme) / total(layers, cost))


def lowest(layers: Iterable[LayerSpec], cost: Cost) -> Number:
    """Adds up the lowest cost of each layer over its candidates."""
    return sum(
        min(cost(spec, n) for n in spec.candidates) if not spec.reason else cost(spec, None)
        for spec in counted(layers)
    )


def uniform(layers: Iterable[LayerSpec], n: int) -> Scheme:
    """Gives every grouped layer the same n of its M.

    Raises:
        InputError: n is not within 1..M of a layer.
    """
    return {spec.name: NM(n, spec.m) for spec in grouped(layers)}


def levels(scheme: Scheme, layers: Iterable[LayerSpec]) -> dict[str, np.ndarray]:
    """Turns a scheme into the n of each kernel that the mask functions read.

    A layer that stays dense may be absent or have N == M, of any M: published schemes name it so.

    Returns:
        path -> int32, the shape of the kernel's stack axes.

    Raises:
        InputError: a grouped layer is missing, its M differs or it has no NM, a layer that stays
            dense has N < M, or the scheme names another layer.
    """
    layers = tuple(layers)
    must, may = ([spec.name for spec in part(layers)] for part in (grouped, counted))
    require_fits(scheme, must, may)
    for spec in counted(layers):
        if spec.name in scheme:
            _require_entry(spec, scheme[spec.name])
    n = {spec.name: scheme[spec.name].n for spec in grouped(layers)}
    return {
        path: stacked(kernel, n, kernel.m).astype(np.int32)
        for path, kernel in kernels(layers).items()
    }


def stacked(kernel: Kernel, values: Mapping[str, float], dense: float) -> np.ndarray:
    """Gathers one value for each layer of a kernel, `dense` for those that stay so: [S] or []."""
    found = np.array([values.get(spec.name, dense) for spec in kernel.slices])
    return found if kernel.axes.stack else found.reshape(())


def signatures(layers: Iterable[LayerSpec]) -> list[Signature]:
    """Lists what the published text knows of the layers, in order of first use.

    Args:
        layers: as `find_layers` gives them without a rule 'flatten', which hides the window.

    Returns:
        (name, input channels, output channels, window; () for a matrix product) of each
        convolution and matrix product, those kept dense included.
    """
    found: list[Signature] = []
    for spec in layers:
        if spec.axes is not None:
            inputs, outputs = (
                math.prod(_sizes(spec, spec.axes, part))
                for part in (spec.axes.inputs, spec.axes.outputs)
            )
            found.append((spec.name, inputs, outputs, _sizes(spec, spec.axes, spec.axes.window)))
    return found


def _sizes(spec: LayerSpec, axes: Axes, part: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the sizes along some axes, numbered as in the whole parameter, of a layer."""
    kept_axes = sorted(axes.window + axes.inputs + axes.outputs)
    return tuple(spec.shape[kept_axes.index(axis)] for axis in part)


def _require_entry(spec: LayerSpec, nm: NM) -> None:
    if not isinstance(nm, NM):
        raise InputError(
            f"{spec.name}: NM(n, m) is wanted in a scheme (NM.parse reads '2:4'), got {nm!r}"
        )
    if spec.reason:
        if nm.n < nm.m:
            raise InputError(f"{spec.name}: scheme has {nm}, but it stays dense: {spec.reason}")
    elif nm.m != spec.m:
        raise InputError(
            f"{spec.name}: scheme has M = {nm.m}, not {spec.m} as the layer here (by m or a rule)"
        )


def _entry(spec: LayerSpec, given: Any) -> dict[int | None, Fraction]:
    wanted = spec.candidates if not spec.reason else ()
    found: dict[int | None, Fraction]
    if isinstance(given, Mapping):
        known = {_count(spec, n): _number(spec, value) for n, value in given.items()}
        missing = [n for n in wanted if n not in known]
        if missing or not known:
            raise InputError(f"cost table: {spec.name}: no cost for n = {missing}; has {[*known]}")
        found = {n: known[n] for n in wanted}
        found[None] = known[spec.m] if wanted else known[max(known)]
    else:
        dense = _number(spec, given)
        found = {n: dense * n / spec.m for n in wanted}
        found[None] = dense
    return found


def _count(spec: LayerSpec, n: Any) -> int:
    if not re.fullmatch(r"[0-9]+", str(n)):
        raise InputError(f"cost table: {spec.name}: {{n: cost}} is wanted, got n = {n!r}")
    return int(n)


def _number(spec: LayerSpec, value: Any) -> Fraction:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise InputError(
            f"cost table: {spec.name}: a cost is a finite number of 0 or more, got {value!r}"
        )
    return exact(value)

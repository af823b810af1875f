"""Parameters that hold layers: one kernel a layer, or a stack of them; schemes laid along them.

Letters: S slices along the stack axes of a kernel.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, axis_sizes, counted, grouped
from domino_jax.core.paths import leaves_by_path, require_known
from domino_jax.core.published import Signature
from domino_jax.core.scheme import NM, Scheme, require_fits


class Kernel(NamedTuple):
    """One grouped parameter: a layer, or a stack of them.

    Attributes:
        axes: parts that its axes play for the masks.
        m: group size.
        slices: the layers in it, by slice, those that stay dense included.
    """

    axes: Axes
    m: int
    slices: tuple[LayerSpec, ...]


def kernels(layers: Iterable[LayerSpec]) -> dict[str, Kernel]:
    """Gathers the parameters that hold grouped layers, in the order of first use."""
    slices: dict[str, list[LayerSpec]] = {}
    first: dict[str, LayerSpec] = {}
    for layer in counted(layers):
        slices.setdefault(layer.path, []).append(layer)
        if layer.groups is not None:
            first.setdefault(layer.path, layer)
    by_path: dict[str, Kernel] = {}
    for path, layer in first.items():
        ordered = sorted(slices[path], key=lambda each: each.index or 0)
        by_path[path] = Kernel(layer.groups.along, layer.m, tuple(ordered))  # type: ignore[union-attr]
    return by_path


def kernel_weights(params: Any, layers: Iterable[LayerSpec]) -> dict[str, Any]:
    """Picks the grouped kernels out of the parameters, by path.

    Whatever else a pytree holds (functions, strings, the rest of an Equinox module) stays behind,
    so what comes out may go into `jit`.

    Raises:
        InputError: a kernel is missing, is no floating array, or has another shape than its layers.
    """
    by_path, grouped_kernels = leaves_by_path(params), kernels(layers)
    require_known(grouped_kernels, list(by_path), what="parameter")
    for path, kernel in grouped_kernels.items():
        _require_kernel(path, by_path[path], kernel)
    return {path: by_path[path] for path in grouped_kernels}


def _require_kernel(path: str, weights: Any, kernel: Kernel) -> None:
    shape, dtype = (getattr(weights, name, None) for name in ("shape", "dtype"))
    if shape is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        what = type(weights).__name__ if dtype is None else f"dtype {dtype}"
        raise InputError(
            f"{path}: expected an array of floats, got {what}; pass the parameters that "
            "find_layers was given (of a module of Equinox what eqx.partition takes out of it)"
        )
    stack = kernel.axes.stack
    own = tuple(size for axis, size in enumerate(shape) if axis not in stack)
    slices = math.prod(shape[axis] for axis in stack if axis < len(shape))
    if len(shape) != len(kernel.axes.order) or own != kernel.slices[0].shape:
        raise InputError(
            f"{path}: expected the shape of its layer, {kernel.slices[0].shape}"
            + (f" behind the stack axes {stack}" if stack else "")
            + f", got {tuple(shape)}"
        )
    if slices != len(kernel.slices):
        raise InputError(
            f"{path}: expected {len(kernel.slices)} slices along its stack axes {stack}, "
            f"got {slices} in the shape {tuple(shape)}"
        )


def threshold_axis(kernel: Kernel, shape: tuple[int, ...], axis: int, parts: int) -> int | None:
    """Returns the axis of [S, W, G, O] that is split where a kernel is split along one of its own.

    Only the first axis of the inputs or outputs is, the slowest: it splits the flattened ones in a
    row.

    Returns:
        2 for inputs in whole groups of M, 3 for outputs; None where a split would cut a group, is
        uneven or has no such form.
    """
    if shape[axis] % parts:
        return None
    if axis in kernel.axes.outputs[:1]:
        return 3
    inputs = math.prod(shape[each] for each in kernel.axes.inputs)
    in_whole_groups = inputs // parts % kernel.m == 0
    return 2 if axis in kernel.axes.inputs[:1] and in_whole_groups else None


def axes_by_path(layers: Iterable[LayerSpec]) -> dict[str, Axes]:
    """Lists the axes of every convolution and matrix product as the trace saw them, by path."""
    return {layer.path: layer.roles for layer in layers if layer.roles is not None}


def n_by_path(scheme: Scheme, layers: Iterable[LayerSpec]) -> dict[str, np.ndarray]:
    """Turns a scheme into the n of each kernel that the mask functions read.

    A layer that stays dense may be absent or have N == M, of any M: published schemes name it so.

    Returns:
        path -> int32, the shape of the kernel's stack axes.

    Raises:
        InputError: a grouped layer is missing, its M differs or it has no NM, a layer that stays
            dense has N < M, or the scheme names another layer.
    """
    layers = tuple(layers)
    must, may = ([layer.name for layer in part(layers)] for part in (grouped, counted))
    require_fits(scheme, must, may)
    for layer in counted(layers):
        if layer.name in scheme:
            _require_entry(layer, scheme[layer.name])
    n = {layer.name: scheme[layer.name].n for layer in grouped(layers)}
    return {
        path: stacked(kernel, n, kernel.m).astype(np.int32)
        for path, kernel in kernels(layers).items()
    }


def stacked(kernel: Kernel, values: Mapping[str, float], dense: float) -> np.ndarray:
    """Gathers one value for each layer of a kernel, `dense` for those that stay so: [S] or []."""
    by_slice = np.array([values.get(layer.name, dense) for layer in kernel.slices])
    return by_slice if kernel.axes.stack else by_slice.reshape(())


def signatures(layers: Iterable[LayerSpec]) -> list[Signature]:
    """Lists what the published text knows of the layers, in order of first use.

    Of what the trace saw: a rule such as 'flatten' changes nothing here.

    Returns:
        (name, input channels, output channels, window; () for a matrix product) of each
        convolution and matrix product, those kept dense included.
    """
    return [
        (
            layer.name,
            math.prod(axis_sizes(layer, layer.roles.inputs)),
            math.prod(axis_sizes(layer, layer.roles.outputs)),
            axis_sizes(layer, layer.roles.window),
        )
        for layer in layers
        if layer.roles is not None
    ]


def _require_entry(layer: LayerSpec, nm: NM) -> None:
    if not isinstance(nm, NM):
        raise InputError(
            f"{layer.name}: expected NM(n, m) in a scheme (NM.parse reads '2:4'), got {nm!r}"
        )
    if layer.reason:
        if nm.n < nm.m:
            raise InputError(
                f"{layer.name}: expected N == M in the scheme, got {nm}: the layer stays dense "
                f"({layer.reason})"
            )
    elif nm.m != layer.m:
        raise InputError(
            f"{layer.name}: expected M = {layer.m} (by m or a rule), got {nm} in the scheme"
        )

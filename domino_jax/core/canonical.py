"""The canonical view of a kernel (stack, window, input, output): the only place that reshapes one.

A group is M consecutive weights along the input axis, for one stack slice, window position and
output. Where the inputs are no multiple of M the last group is padded.

Shape letters: S stack slices, W window positions, I inputs, O outputs, G groups along the inputs,
M group size, R what does not run along the inputs.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Axes:
    """Which axes of a kernel play which part; together they are all its axes, each once.

    Attributes:
        stack: one independent layer for each index (scanned, vmapped or indexed kernels).
        window: positions of a convolution kernel; groups never cross them.
        inputs: contracted axes, flattened in this order; groups run along them.
        outputs: one product for each index; groups never cross them.
    """

    stack: tuple[int, ...]
    window: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The axes in the order of the canonical view."""
        return self.stack + self.window + self.inputs + self.outputs


def in_groups(x: jax.Array, m: int, axes: Axes, filler: int = 0) -> jax.Array:
    """Brings a kernel to [S, W, G, M, O], the filler where the last group is short.

    axes (1,) inputs, (0,) outputs, m = 4        view [S=1, W=1, I=6, O=2]
    w [2, 6] = a b c d e f                       O=0: |a b c d| e f . .|
               g h i j k l                       O=1: |g h i j| k l . .|
    """
    s, w, i, o = sizes(x.shape, axes)
    # Outputs come last, though groups run along the inputs: XLA then compares whole rows of
    # outputs at once, and for Flax kernels the transpose is none.
    view = x.transpose(axes.order).reshape(s, w, i, o)
    if i % m:
        view = jnp.pad(view, ((0, 0), (0, 0), (0, -i % m), (0, 0)), constant_values=filler)
    return view.reshape(s, w, -(-i // m), m, o)


def ungroup(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings [S, W, G, M, O] back to the kernel's own shape; drops the padding."""
    s, w, i, o = sizes(shape, axes)
    return from_matrices(x.reshape(s, w, -1, o)[:, :, :i], shape, axes)


def per_slice(n: jax.typing.ArrayLike, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings n to [S, 1, 1, 1, 1]."""
    slices, *_ = sizes(shape, axes)
    n = jnp.asarray(n, jnp.int32)
    return jnp.broadcast_to(n.reshape(-1), (slices,)).reshape(-1, 1, 1, 1, 1)


def spread(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Lays one value for each stack slice ([S], or [] for all) along a kernel's stack axes.

    Returns:
        an array of the kernel's rank, 1 on every other axis.
    """
    lengths = [shape[a] if a in axes.stack else 1 for a in axes.order]
    slices, *_ = sizes(shape, axes)
    ordered = jnp.broadcast_to(x.reshape(-1), (slices,)).reshape(lengths)
    return ordered.transpose(np.argsort(axes.order).tolist())


def matrices(w: jax.Array, axes: Axes) -> jax.Array:
    """Lays a kernel out as one matrix a slice, inputs (window first) by outputs: [S, W·I, O]."""
    slices, window, inputs, outputs = sizes(w.shape, axes)
    return w.transpose(axes.order).reshape(slices, window * inputs, outputs)


def from_matrices(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings what `matrices` laid out, [S, W·I, O], back to a kernel's own shape."""
    # The inverse of a permutation is what sorts it.
    ordered = x.reshape([shape[a] for a in axes.order])
    return ordered.transpose(np.argsort(axes.order).tolist())


def by_input(w: jax.Array, axes: Axes) -> jax.Array:
    """Brings a kernel without stack axes to [I, W * O]: one row for each input."""
    _, windows, inputs, outputs = sizes(w.shape, axes)
    view = w.transpose(axes.order).reshape(windows, inputs, outputs)
    return view.swapaxes(0, 1).reshape(inputs, -1)


def one_slice(w: jax.Array, index: jax.Array | int, axes: Axes) -> jax.Array:
    """Takes one slice (row-major over the stack) of a kernel; its stack axes stay, 1 long."""
    for axis in reversed(axes.stack):
        size = w.shape[axis]
        w, index = jax.lax.dynamic_slice_in_dim(w, index % size, 1, axis), index // size
    return w


def with_slice(w: jax.Array, part: jax.Array, index: int, axes: Axes) -> jax.Array:
    """Puts what `one_slice` took back into its place."""
    places = np.unravel_index(index, [w.shape[axis] for axis in axes.stack])
    starts = [0] * w.ndim
    for axis, place in zip(axes.stack, places, strict=True):
        starts[axis] = int(place)
    return jax.lax.dynamic_update_slice(w, part.astype(w.dtype), starts)


def sizes(shape: tuple[int, ...], axes: Axes) -> tuple[int, int, int, int]:
    """Returns S, W, I and O of a kernel's shape."""
    parts = (axes.stack, axes.window, axes.inputs, axes.outputs)
    s, w, i, o = (math.prod(shape[a] for a in part) for part in parts)
    return s, w, i, o

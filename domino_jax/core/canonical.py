"""The parts of a kernel and its groups: the only place that reshapes one.

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
    """Splits the inputs of a kernel into groups where they lie: [.., G, M, ..].

    m = 4, inputs (0,): w [6, O] -> [G=2, M=4, O]; inputs (1,): w [O, 6] -> [O, G=2, M=4].

    w [2, 6] = a b c d e f     by inputs (1,)     [[a b c d] [e f . .]]
               g h i j k l                        [[g h i j] [k l . .]]

    A kernel is transposed only if its inputs do not follow each other: XLA's loops run over memory
    as it lies. The filler is where the last group is short.
    """
    order, place = _arranged(axes)
    x = x.transpose(order)
    before, after = x.shape[:place], x.shape[place + len(axes.inputs) :]
    inputs = math.prod(x.shape[place : place + len(axes.inputs)])
    x = x.reshape(*before, inputs, *after)
    if inputs % m:
        widths = [(0, -inputs % m if axis == place else 0) for axis in range(x.ndim)]
        x = jnp.pad(x, widths, constant_values=filler)
    return x.reshape(*before, -(-inputs // m), m, *after)


def one_window(shape: tuple[int, ...], axes: Axes) -> tuple[tuple[int, ...], Axes]:
    """Returns shape and axes of a kernel whose window axes, if they follow each other, are one.

    A reshape to it moves nothing, and XLA's loops over it have an axis less: an eighth of a mask.
    """
    first, count = min(axes.window, default=0), len(axes.window)
    if count < 2 or axes.window != tuple(range(first, first + count)):
        return shape, axes

    def renamed(part: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis if axis < first else axis - count + 1 for axis in part)

    pixels = math.prod(shape[first : first + count])
    return (*shape[:first], pixels, *shape[first + count :]), Axes(
        renamed(axes.stack), (first,), renamed(axes.inputs), renamed(axes.outputs)
    )


def axis_of_m(axes: Axes) -> int:
    """Returns the axis of M in what `in_groups` returns; that of G is the one before it."""
    return _arranged(axes)[1] + 1


def ungroup(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings what `in_groups` split back to the kernel's own shape; drops the padding."""
    order, place = _arranged(axes)
    arranged = [shape[axis] for axis in order]
    _, _, inputs, _ = sizes(shape, axes)
    x = x.reshape(*x.shape[:place], -1, *x.shape[place + 2 :])
    x = jax.lax.slice_in_dim(x, 0, inputs, axis=place)
    return x.reshape(arranged).transpose(np.argsort(order).tolist())


def per_slice(n: jax.typing.ArrayLike, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Lays one n for each stack slice ([S], or [] for all) along the stack axes of `in_groups`."""
    order, place = _arranged(axes)
    n = spread(jnp.asarray(n, jnp.int32), shape, axes).transpose(order)
    return n.reshape(*n.shape[:place], 1, 1, *n.shape[place + len(axes.inputs) :])


def from_groups(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings one value of each group, as they lie (`in_groups` without M), to [S, W, G, O]."""
    slices, windows, _, outputs = sizes(shape, axes)
    return x.transpose(_of_groups(axes)).reshape(slices, windows, -1, outputs)


def to_groups(x: jax.Array, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    """Brings one value of each group, [S, W, G, O], to where the groups lie; M is 1."""
    first = [shape[axis] for axis in (*axes.stack, *axes.window)]
    x = x.reshape(*first, x.shape[2], *(shape[axis] for axis in axes.outputs))
    return jnp.expand_dims(x.transpose(np.argsort(_of_groups(axes)).tolist()), axis_of_m(axes))


def _arranged(axes: Axes) -> tuple[tuple[int, ...], int]:
    """Returns an order of the axes in which the inputs follow each other, and where they begin."""
    first = axes.inputs[0]
    if axes.inputs == tuple(range(first, first + len(axes.inputs))):
        return tuple(range(len(axes.order))), first
    return axes.order, len(axes.stack) + len(axes.window)


def _of_groups(axes: Axes) -> list[int]:
    """Returns the order that brings groups from where they lie to stack, window, group, output."""
    order, place = _arranged(axes)
    lying = [axis for axis in order if axis not in axes.inputs[1:]]
    wanted = [*axes.stack, *axes.window, order[place], *axes.outputs]
    return [lying.index(axis) for axis in wanted]


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

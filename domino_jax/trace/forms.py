"""How each product reads a weight: its pieces, and rows of the other operand that meet them.

Letters: as in `sites`, and P parts of the other operand that are treated one after another.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.trace.products import stacked
from domino_jax.trace.views import Piece, View, size_of

# Places of a window that are cut out one by one. A window of 512 takes 14 s to compile so, and
# 0.3 s as one gather, which is as fast on CPUs; accelerators would rather cut.
LARGE = 16
JOINED = "joined with other weights in a form that is not followed"


class Reads(NamedTuple):
    """How the arrays of a product become rows that meet a weight.

    Attributes:
        parts: the other operand -> the same in parts, [P, ...], treated one after another.
        rows: a part -> [V, G, R, k].
        grads: gradient of the result -> [V, R, o].
    """

    parts: Callable[[jax.Array], jax.Array]
    rows: Callable[[jax.Array], jax.Array]
    grads: Callable[[jax.Array], jax.Array]


class Form(NamedTuple):
    """How a product reads one view of a weight.

    Attributes:
        slices: pieces of a stack that the product takes side by side, [V].
        inputs: pieces that it sums over, [k].
        outputs: pieces with a result each, [o].
        groups: feature groups of a convolution, 1 of any other product.
        reads: the rows that meet it.
    """

    slices: Sequence[Piece]
    inputs: Sequence[Piece]
    outputs: Sequence[Piece]
    groups: int
    reads: Reads


class Cut(NamedTuple):
    """The part of dim `dim` of the joined array that is one weight."""

    dim: int
    start: int
    size: int


def cuts(joined: Sequence[View], shape: Sequence[int]) -> list[Cut | None] | None:
    """Finds which part of an array each of its views is; None for a view that is all of it.

    Views stand in the order in which they were joined, along the one dim where they are smaller.
    """
    if len(joined) == 1:
        return [None] if joined[0].shape == tuple(shape) else None
    if any(len(view.shape) != len(shape) for view in joined):
        return None
    pairs = [enumerate(zip(view.shape, shape, strict=True)) for view in joined]
    dims = {d for each in pairs for d, (own, whole) in each if own != whole}
    if len(dims) != 1:
        return None
    (dim,) = dims
    sizes = [size_of(view.dims[dim]) for view in joined]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    cuts: list[Cut | None] = [Cut(dim, *pair) for pair in zip(starts, sizes, strict=True)]
    return cuts if sum(sizes) == shape[dim] else None


def _taken(x: jax.Array, cut: Cut | None, dim: int | None) -> jax.Array:
    if cut is None or dim is None:
        return x
    return jax.lax.slice_in_dim(x, cut.start, cut.start + cut.size, axis=dim)


def _dot(eqn: Any, view: View, side: int, cut: Cut | None) -> Form:
    """Batch dims that hold a stack are slices; others are rows, as the free dims of the inputs."""
    contracting, batch = eqn.params["dimension_numbers"]
    other = 1 - side
    is_slice = [any(p.axis >= 0 and p.size > 1 for p in view.dims[d]) for d in batch[side]]
    slices = [i for i, is_one in enumerate(is_slice) if is_one]
    rows = [i for i, is_one in enumerate(is_slice) if not is_one]
    ranks = [len(eqn.invars[i].aval.shape) for i in (0, 1)]
    free = [
        [d for d in range(ranks[i]) if d not in (*contracting[i], *batch[i])] for i in (side, other)
    ]
    # The result has batch dims, then the free dims of the left side, then those of the right.
    first = len(batch[side]) + (0 if side == 0 else len(free[1]))
    out_weight = list(range(first, first + len(free[0])))
    first = len(batch[side]) + (0 if side == 1 else len(free[0]))
    out_rows = list(range(first, first + len(free[1])))
    x_cut = g_cut = None
    if cut is not None:
        if cut.dim in contracting[side]:
            x_cut = contracting[other][tuple(contracting[side]).index(cut.dim)]
        elif cut.dim in batch[side]:
            g_cut = tuple(batch[side]).index(cut.dim)
            x_cut = batch[other][g_cut]
        else:
            g_cut = out_weight[free[0].index(cut.dim)]
    of_slices = [p for i in slices for p in view.dims[batch[side][i]]]
    of_inputs = [p for d in contracting[side] for p in view.dims[d]]
    of_outputs = [p for d in free[0] for p in view.dims[d]]
    v, k, o = (math.prod(p.size for p in pieces) for pieces in (of_slices, of_inputs, of_outputs))

    def rows_of(x: jax.Array) -> jax.Array:
        order = [batch[other][i] for i in (*slices, *rows)] + free[1] + [*contracting[other]]
        return _taken(x, cut, x_cut).transpose(order).reshape(v, 1, -1, k)

    def grads_of(g: jax.Array) -> jax.Array:
        order = [*slices, *rows, *out_rows, *out_weight]
        return _taken(g, cut, g_cut).transpose(order).reshape(v, -1, o)

    reads = Reads(lambda x: x[None], rows_of, grads_of)
    return Form(of_slices, of_inputs, of_outputs, 1, reads)


def _convolution(eqn: Any, view: View, side: int, cut: Cut | None) -> Form | str:
    """Patches of one example after another: all at once they would be as large as K images."""
    del side  # the kernel of a convolution is on the right
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    output, inputs, *window = numbers.rhs_spec
    channels = p["feature_group_count"]
    slices, groups = stacked(view, output, channels)
    if cut is not None and (channels > 1 or cut.dim not in (output, inputs)):
        return JOINED
    x_cut = numbers.lhs_spec[1] if cut and cut.dim == inputs else None
    g_cut = numbers.out_spec[1] if cut and cut.dim == output else None
    of_outputs = view.dims[output][len(slices) :]
    v, o = size_of(slices), size_of(of_outputs)
    sizes = [size_of(view.dims[d]) for d in window]
    k = math.prod(sizes) * size_of(view.dims[inputs])

    def parts(x: jax.Array) -> jax.Array:
        batch, feature, *spatial = numbers.lhs_spec
        return _taken(x, cut, x_cut).transpose(batch, *spatial, feature)

    def rows_of(image: jax.Array) -> jax.Array:
        patches = _patches(image, sizes, p)
        patches = patches.reshape(*patches.shape[:2], channels, -1).transpose(2, 0, 1, 3)
        return patches.reshape(v, groups, patches.shape[1], k)

    def grads_of(g: jax.Array) -> jax.Array:
        batch, feature, *spatial = numbers.out_spec
        g = _taken(g, cut, g_cut).transpose(batch, *spatial, feature)
        return g.reshape(-1, v, o).transpose(1, 0, 2)

    marks = [piece for d in window for piece in view.dims[d]] + [*view.dims[inputs]]
    return Form(slices, marks, of_outputs, groups, Reads(parts, rows_of, grads_of))


def _patches(image: jax.Array, window: Sequence[int], p: Mapping[str, Any]) -> jax.Array:
    """Cuts the patches of one image that the positions of a kernel meet.

    Args:
        image: [*spatial, C].
        window: size of the kernel along each spatial dim.
        p: parameters of the convolution.

    Returns:
        [R, W, C].
    """
    spread = [
        (*pad, dilation - 1) for pad, dilation in zip(p["padding"], p["lhs_dilation"], strict=True)
    ]
    patches = jax.lax.pad(image, jnp.zeros((), image.dtype), [*spread, (0, 0, 0)])
    steps = zip(window, p["window_strides"], p["rhs_dilation"], strict=True)
    for dim, (size, stride, dilation) in enumerate(steps):  # one axis -> [positions, places]
        patches = _along_window(patches, 2 * dim, size, stride, dilation)
    dims = len(window)
    order = [*range(0, 2 * dims, 2), *range(1, 2 * dims, 2), 2 * dims]
    return patches.transpose(order).reshape(-1, math.prod(window), image.shape[-1])


def _along_window(x: jax.Array, axis: int, size: int, stride: int, dilation: int) -> jax.Array:
    """Replaces an axis by two: positions of a window, and places in it."""
    count = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    if size > LARGE:
        places = np.arange(count)[:, None] * stride + np.arange(size) * dilation
        return jnp.take(x, jnp.asarray(places, jnp.int32), axis=axis, mode="clip")
    starts = [place * dilation for place in range(size)]
    ends = [start + (count - 1) * stride + 1 for start in starts]
    cuts = [jax.lax.slice_in_dim(x, *cut, stride, axis) for cut in zip(starts, ends, strict=True)]
    return jnp.stack(cuts, axis + 1)


FORMS: Mapping[str, Callable[[Any, View, int, Cut | None], Form | str]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}

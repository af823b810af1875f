"""Where the axes of a parameter have gone after transposes, reshapes, slices and loops.

An array that still holds the weights of one parameter is a `View`: each of its dims is an ordered
tuple of pieces of the parameter's axes. Every move returns a new view, or None where there is none.

A piece is (axis, stride, size). The attention kernel w, axes 0 and 1, of 3 x 2 heads of width 4:

    w [8, 24]                    dims  (0,1,8)   (1,1,24)
    reshape(8, 3, 2, 4)                (0,1,8)   (1,8,3)  (1,4,2)  (1,1,4)     one axis, split
    [:, 1]                             (0,1,8)   (1,4,2)  (1,1,4)              offset 8 on axis 1,
                                       stack (1,8,1): one of three was picked
    transpose(1, 2, 0)                 (1,4,2)  (1,1,4)  (0,1,8)
    reshape(8, 8)                      (1,1,8)   (0,1,8)       neighbours that follow are joined
    reshape(64)                        (1,1,8)(0,1,8)          one dim, two pieces, major to minor
    reshape(16, 4)                     (1,1,8)(0,4,2)   (0,1,4)

At the product each dim has a role, so has each of its pieces, and so has each axis.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple


class Piece(NamedTuple):
    """Positions `offset + i * stride`, i < size, along one axis of the parameter.

    Axis -1 stands for copies that broadcasting added.
    """

    axis: int
    stride: int
    size: int


Dim = tuple[Piece, ...]
Shift = tuple[int, int | None]


@dataclass(frozen=True)
class View:
    """One parameter, or a part of it, as it lies in a traced array.

    Attributes:
        path: of the parameter.
        leaf: shape of the parameter.
        dims: pieces of each dim of the array, major to minor; () for an added dim of size 1.
        offset: per axis of the parameter, the position where the view starts; None if unknown.
        stack: pieces fixed by an index (size 1) or run over by an enclosing loop.
        share: of the array along a concatenated dim that is this view.
        varies: what it is depends on the inputs: which part of the parameter (experts picked per
            token, rows looked up), or how much of it (weights scaled by an activation).
        reason: why the parameter cannot be sparse, '' if it can.
        picked: its rows were picked by an index that no input gives. In a product with activations
            they are a kernel in another order; anywhere else they are rows of a table.
        chosen: the dims that it was multiplied along by a one-hot: all but one index are zero.
        measured: parameters of which a norm or the like has scaled it: v of g·v/|v|.
        factors: the weights of one form whose product it is, while no one knows which of them is
            the kernel; itself is the first.
    """

    path: str
    leaf: tuple[int, ...]
    dims: tuple[Dim, ...]
    offset: tuple[int | None, ...]
    stack: Dim = ()
    share: Fraction = Fraction(1)
    varies: bool = False
    reason: str = ""
    picked: bool = False
    chosen: frozenset[Dim] = frozenset()
    # What these two say of a view makes no other weights of it.
    measured: frozenset[str] = field(default=frozenset(), compare=False)
    factors: tuple["View", ...] = field(default=(), compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that this view describes."""
        return tuple(size_of(dim) for dim in self.dims)


def size_of(dim: Dim) -> int:
    """Number of positions of a dim."""
    return math.prod(piece.size for piece in dim)


def whole(path: str, shape: Sequence[int]) -> View:
    """Returns the view of a parameter as it is."""
    dims = tuple((Piece(axis, 1, size),) for axis, size in enumerate(shape))
    return View(path, tuple(shape), dims, (0,) * len(dims))


def pieces(view: View) -> Iterator[Piece]:
    """Yields all pieces of the view: those of its stack, then those of its dims."""
    yield from view.stack
    for dim in view.dims:
        yield from dim


def axes_of(view: View) -> set[int]:
    """Returns the axes of the parameter that the dims of the view hold."""
    return {piece.axis for dim in view.dims for piece in dim} - {-1}


def is_repeated(view: View) -> bool:
    """Says whether the array holds the weights more than once."""
    return any(piece.axis < 0 and piece.size > 1 for piece in pieces(view))


def matrix_rank(view: View) -> int:
    """Counts the dims along which the weights differ."""
    return sum(any(piece.axis >= 0 and piece.size > 1 for piece in dim) for dim in view.dims)


def positions(view: View, axis: int) -> list[int]:
    """Lists the indices of one axis of the parameter that the view covers; all if unknown."""
    start = view.offset[axis]
    if start is None:  # picked by an index that the trace does not know
        return list(range(view.leaf[axis]))
    spots = [start]  # each piece is a digit of the position, its stride the place value
    for piece in pieces(view):
        if piece.axis == axis:
            spots = [spot + i * piece.stride for spot in spots for i in range(piece.size)]
    return spots


def transpose(view: View, permutation: Sequence[int]) -> View:
    """Permutes the dims as `jax.lax.transpose` does."""
    return replace(view, dims=tuple(view.dims[d] for d in permutation))


def run_over(view: View) -> View:
    """Removes the leading dim: a loop runs over it."""
    return replace(view, dims=view.dims[1:], stack=(*view.stack, *view.dims[0]))


def squeeze(view: View, numbers: Sequence[int]) -> View:
    """Removes dims of size 1; an axis of which one index was taken becomes a stack axis."""
    dims = tuple(dim for d, dim in enumerate(view.dims) if d not in numbers)
    gone = [piece for d in numbers for piece in view.dims[d] if _is_indexed(view, piece)]
    return replace(view, dims=dims, stack=(*view.stack, *gone))


def broadcast(view: View, shape: Sequence[int], where: Sequence[int]) -> View:
    """Adds dims and repeats dims of size 1 as `jax.lax.broadcast_in_dim` does."""
    dims: list[Dim] = [()] * len(shape)
    for source, target in enumerate(where):
        dims[target] = view.dims[source]
    for d, size in enumerate(shape):
        if size_of(dims[d]) != size:  # copies lie inside a dim: minor to what was there
            dims[d] = (*dims[d], Piece(-1, 0, size))
    return replace(view, dims=tuple(dims))


def expand(view: View, where: Sequence[int]) -> View:
    """Adds one dim of size 1: dim d goes to `where[d]`."""
    dims: list[Dim] = [()] * (len(where) + 1)
    for dim, target in zip(view.dims, where, strict=True):
        dims[target] = dim
    return replace(view, dims=tuple(dims))


def tile(view: View, reps: Sequence[int]) -> View:
    """Repeats whole dims as `jnp.tile` does."""
    # Unlike broadcasting, tiling repeats a dim as a whole: copies are major.
    copies = [(Piece(-1, 0, n),) if n > 1 else () for n in reps]
    return replace(view, dims=tuple(c + dim for c, dim in zip(copies, view.dims, strict=True)))


def reverse(view: View, numbers: Sequence[int]) -> View:
    """Reverses dims as `jax.lax.rev` does."""
    dims, shifts = list(view.dims), []
    for d in numbers:
        # The first is now the last: start there and step back.
        shifts += [(piece.axis, (piece.size - 1) * piece.stride) for piece in dims[d]]
        dims[d] = tuple(Piece(axis, -stride, size) for axis, stride, size in dims[d])
    return _shifted(replace(view, dims=tuple(dims)), shifts)


def cut(
    view: View,
    starts: Sequence[int | None],
    sizes: Sequence[int],
    strides: Sequence[int] | None = None,
) -> View | None:
    """Takes a slice: per dim its start (None if unknown), its size and its stride."""
    dims, shifts = [], []
    for d, dim in enumerate(view.dims):
        part = _cut_dim(dim, starts[d], sizes[d], strides[d] if strides else 1)
        if part is None:
            return None
        dims.append(part[0])
        shifts += part[1]
    return _shifted(replace(view, dims=tuple(dims)), shifts)


def cut_between(
    view: View, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int] | None
) -> View | None:
    """Takes a slice as `jax.lax.slice` does."""
    strides = strides or [1] * len(starts)
    bounds = zip(starts, limits, strides, strict=True)
    return cut(view, starts, [-((low - high) // step) for low, high, step in bounds], strides)


def _cut_dim(dim: Dim, start: int | None, size: int, stride: int) -> tuple[Dim, list[Shift]] | None:
    if size == size_of(dim):
        return dim, []
    if start is None:
        return _cut_somewhere(dim, size)
    # (axis 0, 4 long)(axis 1, 6 long) has 24 positions: 6 to each index of the head.
    head, rest = dim[0], dim[1:]
    minor = size_of(rest)
    first, last = start // minor, (start + (size - 1) * stride) // minor
    # Whole indices of the head: [6:18] are indices 1 and 2 of axis 0, with all of axis 1.
    if minor == 1 or (stride == 1 and start % minor == 0 and size % minor == 0):
        kept = Piece(head.axis, head.stride * stride, size // minor)
        return (kept, *rest), [(head.axis, first * head.stride)]
    # Or a part of one index: [7:10] is index 1 of axis 0, 1 to 3 of axis 1; [4:8] crosses a border.
    inner = _cut_dim(rest, start - first * minor, size, stride) if first == last else None
    if inner is None:
        return None
    fixed = Piece(head.axis, head.stride, 1)
    return (fixed, *inner[0]), [(head.axis, first * head.stride), *inner[1]]


def _cut_somewhere(dim: Dim, size: int) -> tuple[Dim, list[Shift]] | None:
    # At an unknown place only one piece can be cut: with two, the border may be crossed.
    if size > 1 and sum(piece.size > 1 for piece in dim) > 1:
        return None
    kept = tuple(Piece(axis, stride, min(old, size)) for axis, stride, old in dim)
    return kept, [(piece.axis, None) for piece in dim]


def _shifted(view: View, shifts: Sequence[Shift]) -> View:
    offset = list(view.offset)
    for axis, shift in shifts:
        if axis >= 0:
            old = offset[axis]
            offset[axis] = None if old is None or shift is None else old + shift
    return replace(view, offset=tuple(offset))


def _is_indexed(view: View, piece: Piece) -> bool:
    return piece.axis >= 0 and view.leaf[piece.axis] > 1


def reshape(view: View, sizes: Sequence[int]) -> View | None:
    """Merges and splits dims in row-major order, as `jax.lax.reshape` does."""
    if 0 in view.leaf or math.prod(sizes) != math.prod(view.shape):
        return None
    # From here on dims do not matter: one row of pieces is cut up anew, the most major one at the
    # end of the queue.
    queue = [piece for dim in reversed(view.dims) for piece in reversed(dim)]
    dims: list[Dim] = []
    for size, following in zip(sizes, (*sizes[1:], 0), strict=True):
        taken = _take_one(queue) if size == 1 else _take(queue, size)
        if taken is None:
            return None
        # Pieces of size 1 go along with the dim before them, unless the next dim is for them.
        while queue and queue[-1].size == 1 and following != 1:
            taken.append(queue.pop())
        dims.append(tuple(taken))
    return _tidy(replace(view, dims=tuple(dims)))


def _take_one(queue: list[Piece]) -> list[Piece]:
    return [queue.pop()] if queue and queue[-1].size == 1 else []


def _take(queue: list[Piece], size: int) -> list[Piece] | None:
    """Pops pieces of this many positions from the end of the queue, splitting the last one."""
    taken: list[Piece] = []
    while size > 1:
        axis, stride, have = queue.pop()
        if have > size:  # the dim is a part of this piece: the minor rest is for the next dim
            if have % size:
                return None  # 6 positions into dims of 4: no piece has such a border
            queue.append(Piece(axis, stride, have // size))
            stride, have = stride * (have // size), size
        if size % have:
            return None
        taken.append(Piece(axis, stride, have))
        size //= have
    return taken


def _tidy(view: View) -> View:
    """Joins neighboring pieces of an axis; moves single indices in larger dims to the stack.

    (1,4,2)(1,1,4) is (1,1,8): the stride of the major piece is what the minor one spans.
    """
    dims, stack = [], list(view.stack)
    for dim in view.dims:
        kept: list[Piece] = []
        for piece in dim:
            # One of several indices, in a dim with more than that: it is fixed, like a stack's.
            if piece.size == 1 and size_of(dim) > 1 and _is_indexed(view, piece):
                stack.append(piece)
            elif kept and _follows(kept[-1], piece):
                kept[-1] = Piece(piece.axis, piece.stride, kept[-1].size * piece.size)
            else:
                kept.append(piece)
        dims.append(tuple(kept))
    return replace(view, dims=tuple(dims), stack=tuple(stack))


def _follows(major: Piece, minor: Piece) -> bool:
    return major.axis == minor.axis and major.stride == minor.stride * minor.size

"""The primitives that arrange the weights of an array otherwise: what becomes of its views.

Each function takes an equation and the values of its operands and returns the values of its
results, None where the weights cannot be followed, or [] where they were only looked up.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from domino_jax.trace import views
from domino_jax.trace.views import View

Moved = list[tuple[View, ...]] | None
REORDERED = "its rows are picked by an index, in an order that the trace does not know"

ONE: Mapping[str, Callable[[View, Mapping[str, Any]], View | None]] = {
    "transpose": lambda view, p: views.transpose(view, p["permutation"]),
    "squeeze": lambda view, p: views.squeeze(view, p["dimensions"]),
    "broadcast_in_dim": lambda view, p: views.broadcast(
        view, p["shape"], p["broadcast_dimensions"]
    ),
    "reshape": lambda view, p: views.reshape(
        views.transpose(view, p["dimensions"]) if p["dimensions"] is not None else view,
        p["new_sizes"],
    ),
    "tile": lambda view, p: views.tile(view, p["reps"]),
    "rev": lambda view, p: views.reverse(view, p["dimensions"]),
    "slice": lambda view, p: views.cut_between(
        view, p["start_indices"], p["limit_indices"], p["strides"]
    ),
}
# Of an array joined from several weights, whose views have other sizes than the array.
OF_JOINED = ("transpose", "squeeze")


def move(eqn: Any, values: Sequence[Any]) -> Moved:
    """Follows a primitive of the table `ONE`."""
    name = eqn.primitive.name
    if len(values[0]) > 1 and name not in OF_JOINED:
        return None
    views_or_none = [ONE[name](view, eqn.params) for view in values[0]]
    moved = tuple(view for view in views_or_none if view is not None)
    return [moved] if len(moved) == len(views_or_none) else None


def split(eqn: Any, values: Sequence[Any]) -> Moved:
    """Follows `jax.lax.split`."""
    view, *more = values[0]  # joined weights may be cut between or within: not followed
    axis, start, parts = eqn.params["axis"], 0, []
    for size in eqn.params["sizes"]:
        starts, sizes = [0] * len(view.shape), list(view.shape)
        starts[axis], sizes[axis], start = start, int(size), start + int(size)
        parts.append(views.cut(view, starts, sizes))
    pieces: list[tuple[View, ...]] = [(part,) for part in parts if part is not None]
    return None if more or len(pieces) < len(parts) else pieces


def unstack(eqn: Any, values: Sequence[Any]) -> Moved:
    """Follows `jnp.unstack`."""
    view, *more = values[0]
    axis = eqn.params["axis"]
    parts: list[tuple[View, ...]] = []
    sizes = [1 if d == axis else size for d, size in enumerate(view.shape)]
    for index in range(view.shape[axis]):
        part = views.cut(view, [index if d == axis else 0 for d in range(len(sizes))], sizes)
        parts += [] if part is None else [(views.squeeze(part, [axis]),)]
    return None if more or len(parts) < len(eqn.outvars) else parts


def concatenate(eqn: Any, values: Sequence[Any]) -> Moved:
    """Joins weights with weights; beside anything else they are lost."""
    axis = eqn.params["dimension"]
    total = eqn.outvars[0].aval.shape[axis]
    shares = [Fraction(operand.aval.shape[axis], total) for operand in eqn.invars]
    return _join(values, shares)


def stack(eqn: Any, values: Sequence[Any]) -> Moved:
    """Joins weights along a new axis, as `jnp.stack` does."""
    axis, rank = eqn.params["axis"], len(eqn.outvars[0].aval.shape)
    where = [d for d in range(rank) if d != axis]
    values = [
        tuple(views.expand(view, where) for view in value) if isinstance(value, tuple) else value
        for value in values
    ]
    return _join(values, [Fraction(1, len(values))] * len(values))


def _join(values: Sequence[Any], shares: Sequence[Fraction]) -> Moved:
    if not all(isinstance(value, tuple) for value in values):
        return None
    pairs = zip(values, shares, strict=True)
    return [tuple(replace(v, share=v.share * share) for value, share in pairs for v in value)]


def dynamic_slice(eqn: Any, values: Sequence[Any]) -> Moved:
    """Follows `jax.lax.dynamic_slice`, with known or unknown starts."""
    operand, *starts = values  # a start is a number where the trace knows it
    return _pick(operand, starts, eqn.params["slice_sizes"])


def gather(eqn: Any, values: Sequence[Any]) -> Moved:
    """Picks out one slice for each index vector: matrices stay weights, vectors are looked up.

    table [100, 8],  tokens [7]  ->  [7, 8]      a lookup: nothing is followed
    experts [3, 8, 6], picks [7] ->  [7, 8, 6]   some expert for each of 7 tokens: 7 copies of
                                                 a matrix that stands somewhere along axis 0
    """
    operand, index = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(operand, tuple):
        return None
    starts = [index if d in numbers.start_index_map else 0 for d in range(len(sizes))]
    picked = [] if numbers.operand_batching_dims else _pick(operand, starts, sizes)
    if picked == [] and isinstance(index, frozenset):
        return _by_constants(eqn, operand)
    if not picked:
        return picked
    shape = eqn.outvars[0].aval.shape
    rows = [views.squeeze(view, numbers.collapsed_slice_dims) for view in picked[0]]
    return [tuple(views.broadcast(row, shape, numbers.offset_dims) for row in rows)]


def _by_constants(eqn: Any, operand: Sequence[View]) -> Moved:
    """Picks rows of one matrix by an index that does not depend on the inputs.

    w [8, 6], order [8]        ->  w[order] [8, 6]     the same weights, in an order of their own
    w [8, 6], which [3]        ->  w[which] [3, 6]     some of them
    table [9, 4], at [5, 5]    ->  [5, 5, 4]           more than there are: a lookup
    """
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, index = eqn.outvars[0].aval.shape, eqn.invars[1].aval.shape
    picked = sorted({*numbers.collapsed_slice_dims, *numbers.operand_batching_dims})
    others = [d for d in range(len(sizes)) if d not in picked]
    rows = [d for d in range(len(shape)) if d not in numbers.offset_dims]  # where the index lands
    counts = [math.prod(index[:-1])] if len(picked) == 1 else [shape[d] for d in rows]
    if len(operand) > 1 or len(counts) != len(picked):
        return []
    (view,) = operand
    taken = [*counts, *(sizes[d] for d in others)]
    front = views.transpose(view, [*picked, *others])
    is_whole = all(sizes[d] == view.shape[d] for d in others)
    if not is_whole or any(n > size for n, size in zip(taken, front.shape, strict=True)):
        return []
    some = views.cut(front, [None] * len(taken), taken)
    order = [*rows, *numbers.offset_dims]
    some = some and views.reshape(some, [shape[d] for d in order])
    if some is None or len(views.axes_of(some)) < 2:
        return []
    some = views.transpose(some, sorted(range(len(order)), key=order.__getitem__))
    return [(replace(some, picked=True, reason=view.reason or REORDERED),)]


def _pick(operand: Any, starts: Sequence[Any], sizes: Sequence[int]) -> Moved:
    """Indexes an array: a matrix picked out stays a weight, a vector picked out is a lookup."""
    if not isinstance(operand, tuple):
        return None
    if len(operand) > 1:
        return _pick_joined(operand, starts, sizes)
    view = operand[0]
    # `w[2]` and `w[i]` are layer 2, and some layer, of a stack; `table[token]` is one vector of a
    # table, which is an activation: what is left decides, whether two axes or one.
    cut = [d for d, size in enumerate(sizes) if size < view.shape[d]]
    known = {d: int(starts[d]) for d in cut if isinstance(starts[d], int)}
    long = [dim for dim, size in zip(view.dims, sizes, strict=True) if size > 1]
    left = {piece.axis for dim in long for piece in dim} - {-1}
    if len(known) < len(cut) and len(left) < 2:
        return []
    # JAX moves a slice that would reach beyond the end back inside.
    clamped = {d: max(0, min(start, view.shape[d] - sizes[d])) for d, start in known.items()}
    part = views.cut(view, [clamped.get(d) for d in range(len(sizes))], sizes)
    return None if part is None else [(part,)]


def _pick_joined(operand: Sequence[View], starts: Sequence[Any], sizes: Sequence[int]) -> Moved:
    """Picks one of several matrices that were stacked: any of them, as the inputs say."""
    along = [d for d, size in enumerate(sizes) if any(size != view.shape[d] for view in operand)]
    stacked = [
        d for d, size in enumerate(sizes) if size == 1 and not any(v.dims[d] for v in operand)
    ]
    if along or len(stacked) != 1 or isinstance(starts[stacked[0]], int):
        return None
    if any(len(views.axes_of(view)) < 2 for view in operand):
        return []
    return [tuple(operand)]


TABLE: Mapping[str, Callable[[Any, Sequence[Any]], Moved]] = {
    **dict.fromkeys(ONE, move),
    "split": split,
    "unstack": unstack,
    "concatenate": concatenate,
    "stack": stack,
    "dynamic_slice": dynamic_slice,
    "gather": gather,
}

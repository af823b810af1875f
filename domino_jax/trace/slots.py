"""Accumulators of what products see, which go where their weight goes.

A loop over a stack hands each pass the row of the accumulators that is its own, or tells it its
number; at the product they lie as the product sees the weight. They are only looked at: the sums
are their gradients.

Letters: as in `sites`; K inputs and O outputs of a layer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from domino_jax.trace.sites import Site
from domino_jax.trace.values import views_of
from domino_jax.trace.views import Piece
from domino_jax.trace.walk import Value


class Sums(NamedTuple):
    """Of what the products of one parameter see; in front its stack axes, or V.

    Attributes:
        products: sum of x xᵀ over the rows, [G, K, K]; None if it is not asked for.
        squares: its diagonal, [G, K].
        rows: how many there were, for each input, [G, K].
        gradients: sum of the squared output gradients over the rows, [O].
        seen: how many rows there were, for each output, [O].
        whole: the same, each counted as the share of all inputs that its product takes, [O].
    """

    products: jax.Array | None
    squares: jax.Array
    rows: jax.Array
    gradients: jax.Array
    seen: jax.Array
    whole: jax.Array


class Slot(NamedTuple):
    """The accumulators that go along with a weight.

    Attributes:
        sums: of zeros; in front the stack axes that are left.
        axes: those axes, as they are numbered in the parameter.
        shape: of the parameter.
        stack: all its stack axes.
        chosen: the one slice (row-major over the stack) that is summed up; None: all of them.
        loops: stack axis -> where along it loops are; what is not there is at 0.
    """

    sums: Sums
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    stack: tuple[int, ...]
    chosen: jax.Array | None
    loops: Mapping[int, Any]


class Held(NamedTuple):
    """An array, what it is (a value of `sites_of`), and the accumulators of the weights in it."""

    array: Any
    value: Value
    slots: Mapping[str, Slot]


def rows_of(held: Held) -> dict[str, Sums]:
    """Picks the accumulators whose rows are those of the weights, with that axis in front."""
    made = {}
    for path, slot in held.slots.items():
        axis = _run_over(held, path, slot)
        if axis is not None:
            place = slot.axes.index(axis)
            made[path] = jax.tree.map(lambda x, place=place: jnp.moveaxis(x, place, 0), slot.sums)
    return made


def _run_over(held: Held, path: str, slot: Slot) -> int | None:
    """Returns the stack axis that a scan over this array runs over, all of it and in order."""
    own = [view for view in views_of([held.value]) if view.path == path]
    axis = own[0].dims[0][0].axis if own[0].dims[0] else -1
    if axis not in slot.axes or axis in slot.loops:
        return None
    whole = (Piece(axis, 1, slot.shape[axis]),)
    in_order = all(view.dims[0] == whole and view.offset[axis] == 0 for view in own)
    return axis if in_order else None


def entered(held: Held, number: Any, rows: Mapping[str, Sums]) -> dict[str, Slot]:
    """Returns the slots of a row: with its own accumulators, or with the number of the row."""
    slots = {}
    for path, slot in held.slots.items():
        view = next(view for view in views_of([held.value]) if view.path == path)
        if path in rows:
            axes = tuple(axis for axis in slot.axes if axis != view.dims[0][0].axis)
            slots[path] = slot._replace(sums=rows[path], axes=axes)
        else:
            slots[path] = slot._replace(loops=_moved(slot.loops, view.dims[0], number))
    return slots


def started(eqn: Any, helds: list[Held], slots: Mapping[str, Slot]) -> dict[str, Slot]:
    """Adds where a slice starts, if the trace does not know it, to where loops are."""
    operand, *starts = helds
    moved = dict(slots)
    for view in views_of([operand.value]):
        slot = moved.get(view.path)
        for dim, start in enumerate(starts):
            size, left = view.shape[dim], eqn.params["slice_sizes"][dim]
            if slot is None or left == size or isinstance(start.value, int):
                continue
            at = jnp.clip(start.array, 0, size - left).astype(jnp.int32)
            slot = slot._replace(loops=_moved(slot.loops, view.dims[dim], at))
            moved[view.path] = slot
    return moved


def _moved(index: Mapping[int, Any], pieces: Sequence[Piece], number: Any) -> dict[int, Any]:
    """Adds a position along a dim, row-major over its pieces, to the index of each axis."""
    moved, minor = dict(index), math.prod(piece.size for piece in pieces)
    for piece in pieces:
        minor //= piece.size
        digit = number // minor % piece.size
        moved[piece.axis] = moved.get(piece.axis, 0) + digit * piece.stride
    return moved


def as_seen(slot: Slot, site: Site) -> Sums:
    """Lays accumulators as the site sees the weight: [V, ..., k] and [V, o]."""
    at = {axis: jnp.asarray(place, jnp.int32) for axis, place in site.stack.items()}
    at = {axis: place + slot.loops.get(axis, 0) for axis, place in at.items()}
    count = next((place.shape[0] for place in at.values()), 1)

    def sliced(x: jax.Array) -> jax.Array:
        if slot.axes:
            return x[tuple(at[axis] for axis in slot.axes)]
        x = jnp.broadcast_to(x[None], (count, *x.shape))
        if slot.chosen is None:
            return x
        number = jnp.zeros(count, jnp.int32)
        for axis in slot.stack:
            number = number * slot.shape[axis] + at[axis]
        # No gradient, so no sum, reaches the accumulators from other slices.
        mine = (number == slot.chosen).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(mine, x, jnp.zeros_like(x))

    sums: Sums = jax.tree.map(sliced, slot.sums)
    h = sums.products
    # What is added up at the product passes through this factor on its way back.
    share = len(site.inputs) / sums.squares.shape[-1]
    by_output = sums.gradients, sums.seen, share * sums.whole
    return Sums(
        None if h is None else _along(_along(h, site.inputs, -1), site.inputs, -2),
        *(_along(x, site.inputs, -1) for x in (sums.squares, sums.rows)),
        *(_along(x, site.outputs, -1) for x in by_output),
    )


def _along(x: jax.Array, places: Any, axis: int) -> jax.Array:
    """Takes places along an axis; nothing to do where they are all of it, in order."""
    if len(places) == x.shape[axis] and (places == range(x.shape[axis])).all():
        return x
    return jnp.take(x, jnp.asarray(places, jnp.int32), axis=axis)


def sums_of(site: Site, x: jax.Array, g: jax.Array, like: Sums) -> Sums:
    """Sums over the rows of a product: of its inputs x and the gradient g of its result."""
    dtype = like.squares.dtype

    def add(part: jax.Array) -> tuple[Any, jax.Array]:
        rows = site.reads.rows(part).astype(dtype)
        squares = jnp.square(rows).sum(2)
        if like.products is None:
            return None, squares
        sides = ((2,), (2,)), ((0, 1), (0, 1))
        return jax.lax.dot_general(rows, rows, sides, precision="highest"), squares

    parts = site.reads.parts(x)
    count = math.prod(jax.eval_shape(site.reads.rows, parts[0]).shape[2:3]) * parts.shape[0]
    if parts.shape[0] == 1:
        products, squares = add(parts[0])
    else:
        zeros = (like.products, like.squares)  # accumulators are zeros, of the very shapes
        total, _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, add(part)), None), zeros, parts
        )
        products, squares = total
    grads = jnp.square(site.reads.grads(g).astype(dtype))
    return Sums(
        products,
        squares,
        jnp.full_like(like.rows, count),
        grads.sum(1),
        *(jnp.full_like(x, grads.shape[1]) for x in (like.seen, like.whole)),
    )

"""Views against the arrays themselves: an array of index numbers goes through the same moves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.trace import views, weights
from domino_jax.trace.views import Piece


def indices(view):
    """Rebuilds from a view without a stack which weight stands where."""
    place = 1
    strides = {}
    for axis in reversed(range(len(view.leaf))):
        strides[axis] = place
        place *= view.leaf[axis]
    start = sum(view.offset[axis] * strides[axis] for axis in strides)
    dims = []
    for dim in view.dims:
        spots = [0]
        for piece in dim:
            step = piece.stride * strides.get(piece.axis, 0)
            spots = [spot + i * step for spot in spots for i in range(piece.size)]
        dims.append(spots)
    total = [start + sum(spot) for spot in itertools.product(*dims)]
    return np.array(total).reshape([len(spots) for spots in dims])


CHAINS = {
    "merge": ((2, 3, 4), lambda w: w.reshape(6, 4)),
    "split": ((4, 6), lambda w: w.reshape(2, 2, 3, 2)),
    "split and merge across": ((4, 6), lambda w: w.reshape(2, 12)),
    "transpose and merge": ((2, 3, 4), lambda w: w.transpose(2, 0, 1).reshape(4, 6)),
    "split and merge again": ((4, 6), lambda w: w.reshape(4, 3, 2).reshape(4, 6)),
    "added dims": ((4, 6), lambda w: w[None, :, None].reshape(1, 4, 6, 1)),
    "axes of size 1": ((1, 1, 4, 6), lambda w: w.reshape(4, 6)),
    "slice": ((4, 6), lambda w: w[1:3, ::2]),
    "index": ((3, 4, 6), lambda w: w[1]),
    "index of a split axis": ((4, 12), lambda w: w.reshape(4, 3, 2, 2)[:, 1]),
    "slice of merged axes": ((3, 4, 5), lambda w: w.reshape(12, 5)[4:8]),
    "slice inside one of merged axes": ((3, 4, 5), lambda w: w.reshape(12, 5)[5:7]),
    "reverse": ((4, 6), lambda w: w[::-1].reshape(2, 2, 6)[:, ::-1]),
    "slice of a reverse": ((5, 6), lambda w: jnp.flip(w, 0)[1:3].T),
    "copies": ((4, 6), lambda w: jnp.broadcast_to(w[:, None], (4, 3, 6)).reshape(12, 6)),
    "one part of a split": ((4, 6), lambda w: jnp.split(w, 3, axis=1)[1]),
    "tiles": ((4, 6), lambda w: jnp.tile(w, (1, 2)).T),
    "row of an unstacked array": ((3, 4, 6), lambda w: jnp.unstack(w, axis=1)[2]),
    "known index": ((3, 4, 6), lambda w: jax.lax.dynamic_index_in_dim(w, 2, 0, keepdims=False)),
    "index beyond the end": ((3, 4, 6), lambda w: jax.lax.dynamic_slice_in_dim(w, 2, 2, 0)),
    "gather of one": ((3, 4, 6), lambda w: w.at[jnp.full((1,), 2)].get(mode="clip")),
    "unchanged by a loop": (
        (4, 6),
        lambda w: jax.lax.fori_loop(0, 3, lambda i, c: (c[0], c[1] + 1.0), (w.T, 0.0))[0],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_view_says_which_weight_stands_where(name):
    shape, chain = CHAINS[name]
    numbers = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    (use,) = weights.find_uses(lambda w, x: chain(w), numbers, ())
    assert use.note == "returned"
    np.testing.assert_array_equal(indices(use.view), chain(numbers))


def test_random_reshapes_are_followed_or_refused():
    rng = np.random.default_rng(0)
    followed = 0
    for _ in range(300):
        shape = tuple(rng.choice([1, 2, 3, 4, 6], size=3).tolist())
        view = views.whole("w", shape)
        numbers = np.arange(np.prod(shape)).reshape(shape)
        for _ in range(4):
            order = rng.permutation(numbers.ndim).tolist()
            view, numbers = views.transpose(view, order), numbers.transpose(order)
            sizes = random_factors(rng, numbers.size)
            view, numbers = views.reshape(view, sizes), numbers.reshape(sizes)
            if view is None:
                break
            followed += 1
            if not view.stack:
                np.testing.assert_array_equal(indices(view), numbers)
    assert followed > 300


def random_factors(rng, total):
    sizes = []
    while total > 1:
        options = [f for f in range(2, total + 1) if total % f == 0]
        sizes.append(int(rng.choice(options)))
        total //= sizes[-1]
    sizes.insert(int(rng.integers(len(sizes) + 1)), 1)
    return tuple(sizes)


def test_a_hand_drawn_reshape():
    view = views.reshape(views.whole("w", (4, 6)), (2, 12))
    assert view.dims == ((Piece(0, 2, 2),), (Piece(0, 1, 2), Piece(1, 1, 6)))


def test_the_drawing_of_the_module():
    view = views.reshape(views.whole("w", (8, 24)), (8, 3, 2, 4))
    assert view.dims == ((Piece(0, 1, 8),), (Piece(1, 8, 3),), (Piece(1, 4, 2),), (Piece(1, 1, 4),))
    view = views.squeeze(views.cut(view, (0, 1, 0, 0), (8, 1, 2, 4)), (1,))
    assert (view.stack, view.offset) == ((Piece(1, 8, 1),), (0, 8))
    view = views.reshape(views.transpose(view, (1, 2, 0)), (8, 8))
    assert view.dims == ((Piece(1, 1, 8),), (Piece(0, 1, 8),))
    view = views.reshape(view, (64,))
    assert view.dims == ((Piece(1, 1, 8), Piece(0, 1, 8)),)
    assert views.reshape(view, (16, 4)).dims == (
        (Piece(1, 1, 8), Piece(0, 4, 2)),
        (Piece(0, 1, 4),),
    )


def test_a_reshape_that_cuts_across_axes_is_refused():
    assert views.reshape(views.whole("w", (4, 6)), (3, 8)) is None


def test_an_index_becomes_a_stack_piece():
    view = views.squeeze(views.cut(views.whole("w", (3, 4)), (2, 0), (1, 4)), (0,))
    assert view.stack == (Piece(0, 1, 1),)
    assert view.shape == (4,)
    assert views.positions(view, 0) == [2]
    assert views.positions(view, 1) == [0, 1, 2, 3]


def test_an_unknown_index_may_be_anywhere():
    view = views.cut(views.whole("w", (3, 4)), (None, 0), (1, 4))
    assert view.offset == (None, 0)
    assert views.positions(view, 0) == [0, 1, 2]


def test_a_slice_of_merged_axes_that_is_no_box_is_refused():
    merged = views.reshape(views.whole("w", (3, 4)), (12,))
    assert views.cut(merged, (1,), (6,)) is None
    assert views.cut(merged, (None,), (6,)) is None

"""Slices of a stack that a product takes together, told apart.

Letters: as in `sites`; E slices that all meet the same inputs, F slices whose results are added up.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from domino_jax.trace.forms import Form, Reads
from domino_jax.trace.views import Dim, Piece, size_of


def split(form: Form, stack: Collection[int]) -> Form:
    """Takes slices of a stack apart that a product does not take as such.

    Experts that all meet the same inputs are among its outputs, and experts whose results are added
    up are among what it sums over.

    Args:
        form: of the product.
        stack: the stack axes of the parameter.
    """
    for_all, ends = _split(form.outputs, stack), _split(form.inputs, stack)
    if not (for_all.slices or ends.slices):
        return form
    v, e, f = (size_of(tuple(s)) for s in (form.slices, for_all.slices, ends.slices))

    def rows_of(part: jax.Array) -> jax.Array:
        rows = form.reads.rows(part)  # [V, G, R, k]
        apart = jnp.moveaxis(ends.apart(rows), 3, 1)[:, None]  # [V, 1, F, G, R, k / F]
        apart = jnp.broadcast_to(apart, (v, e, *apart.shape[2:]))
        return apart.reshape(v * e * f, *apart.shape[3:])

    def grads_of(g: jax.Array) -> jax.Array:
        grads = form.reads.grads(g)  # [V, R, o]
        apart = jnp.moveaxis(for_all.apart(grads), 2, 1)[:, :, None]  # [V, E, 1, R, o / E]
        apart = jnp.broadcast_to(apart, (v, e, f, *apart.shape[3:]))
        return apart.reshape(v * e * f, *apart.shape[3:])

    return form._replace(
        slices=[*form.slices, *for_all.slices, *ends.slices],
        inputs=ends.others,
        outputs=for_all.others,
        reads=Reads(form.reads.parts, rows_of, grads_of),
    )


class _Apart(NamedTuple):
    """Pieces of a stack and the others; `apart`: [..., all of them] -> [..., stack, others]."""

    slices: Dim
    others: Dim
    apart: Callable[[jax.Array], jax.Array]


def _split(pieces: Sequence[Piece], stack: Collection[int]) -> _Apart:
    is_slice = [piece.axis in stack and piece.size > 1 for piece in pieces]
    order = sorted(range(len(pieces)), key=lambda i: not is_slice[i])
    slices = tuple(pieces[i] for i in order if is_slice[i])
    others = tuple(pieces[i] for i in order if not is_slice[i])

    def apart(x: jax.Array) -> jax.Array:
        *kept, _ = x.shape
        digits = x.reshape(*kept, *(piece.size for piece in pieces))
        digits = digits.transpose(*range(len(kept)), *(len(kept) + i for i in order))
        return digits.reshape(*kept, size_of(slices), size_of(others))

    return _Apart(slices, others, apart)

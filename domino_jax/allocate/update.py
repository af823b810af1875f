"""Weights that stay make up for those that go: the N:M update of SparseGPT, without training.

Of all matrices with these zeros it looks for the one whose outputs differ least from those of W on
the inputs that were seen, (W - Ŵ)ᵀH(W - Ŵ). Inputs are gone through in order; what each removed
weight changed in the outputs is taken over by the weights of the inputs that are still to come
(Frantar and Alistarh, SparseGPT, 2023).

Letters: K inputs, O outputs, M group size, P inputs with padding.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import Axes, from_matrices, matrices, one_slice
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernel_weights, n_by_path
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masked import Masks, make_masks, where_kept
from domino_jax.core.masks import top_scores
from domino_jax.core.ranks import at_least_float32
from domino_jax.core.scheme import Scheme
from domino_jax.trace.taps import Statistics
from domino_jax.trace.turns import change_in_turn

Params = TypeVar("Params")
DAMPING = 0.01  # of the mean of H's diagonal, added to it
BLOCK = 128  # inputs whose errors are handed on together
_COLUMN = Axes((), (), (0,), (1,))


def update_matrix(
    w: jax.Array,
    h: jax.Array,
    n: jax.typing.ArrayLike,
    m: int,
    *,
    run: int | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Makes a matrix n:m along its inputs, and lets the rest make up for it.

    Args:
        w: [K, O].
        h: mean of x xᵀ over the inputs x, [K, K].
        n: weights kept of every M, 1 to m; may be traced.
        m: group size.
        run: groups start anew after so many inputs, and the last of a run may be short; None: K.
        mask: True where a weight stays, [K, O]; None chooses in each group, when its turn comes,
            the weights of the largest w² / [H⁻¹]_jj, H⁻¹ of the inputs that are still to come.

    Returns:
        [K, O], the dtype of w but at least float32; n nonzeros of every m at the most.

    Raises:
        InputError: the shapes do not fit, or n is not in 1..m.
    """
    inputs = w.shape[0]
    run = inputs if run is None else run
    if not isinstance(n, jax.core.Tracer) and not 1 <= np.asarray(n) <= m:
        raise InputError(f"n: expected the number of weights to keep of every {m}, got {n}")
    if h.shape != (inputs, inputs) or inputs % run or (mask is not None and mask.shape != w.shape):
        raise InputError(
            f"expected H of shape {(inputs, inputs)}, a mask of shape {tuple(w.shape)} or none and "
            f"runs that divide {inputs} inputs, got H {tuple(h.shape)}, "
            f"a mask {None if mask is None else tuple(mask.shape)} and runs of {run}"
        )
    places = _padded(inputs, run, m)
    is_own = places < inputs
    dtype = max(
        at_least_float32(w.dtype), at_least_float32(h.dtype), key=lambda dtype: dtype.itemsize
    )
    at = np.minimum(places, inputs - 1)
    wide = jnp.where(is_own[:, None], w.astype(dtype)[at], jnp.zeros((), dtype))
    both = is_own[:, None] & is_own[None, :]
    h = jnp.where(both, h.astype(dtype)[at][:, at], jnp.zeros((), dtype))
    keep = None if mask is None else jnp.where(is_own[:, None], mask[at], False)
    made = _solved(wide, _factor(h, is_own), keep, jnp.asarray(n, jnp.int32), m, _block(m))
    return made[np.flatnonzero(is_own)]


def update_layer(
    w: jax.Array,
    layer: LayerSpec,
    own: Statistics,
    n: jax.typing.ArrayLike,
    *,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Makes one layer n:M by its statistics.

    Args:
        w: the whole parameter.
        layer: a grouped layer of it.
        own: its statistics with H, as `tap` gives them.
        n: weights kept of every M.
        mask: of the whole parameter, True where a weight stays; None chooses as `update_matrix`.

    Returns:
        The layer, in the shape of the parameter with stack axes of 1.

    Raises:
        InputError: the layer has no groups, or statistics without H.
    """
    if layer.groups is None or layer.roles is None or own.products is None:
        raise InputError(f"{layer.name}: expected a grouped layer and its statistics with H")
    roles, h = layer.roles, own.products
    groups, inputs, _ = h.shape

    def by_group(of_kernel: jax.Array) -> jax.Array:
        part = one_slice(of_kernel, layer.index or 0, roles)
        return matrices(part, roles)[0].reshape(inputs, groups, -1).swapaxes(0, 1)

    part = one_slice(w, layer.index or 0, roles)
    runs = int(np.prod([part.shape[a] for a in layer.groups.along.window], dtype=int))
    keep = [None] * groups if mask is None else by_group(mask)
    made = jnp.stack(
        [
            update_matrix(x, h[g], n, layer.m, run=inputs // runs, mask=keep[g])
            for g, x in enumerate(by_group(w))
        ]
    )
    return from_matrices(made.swapaxes(0, 1), part.shape, roles).astype(w.dtype)


def _refused(layer: LayerSpec, reason: str) -> None:
    raise InputError(f"{layer.name}: expected a layer whose inputs can be seen, got {reason!r}")


def update_weights(
    layers: Iterable[LayerSpec],
    params: Params,
    scheme: Scheme,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    masks: Masks | None = None,
    untapped: Callable[[LayerSpec, str], None] = _refused,
    report: Callable[[int], None] = lambda done: None,
) -> Params:
    """Makes a network sparse without training: layer after layer, in the order of the trace.

    Each layer sees the inputs that the sparse layers before it leave it; one H is in memory.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        scheme: N:M of every grouped layer.
        loss: (params, batch) -> mean loss over the examples; only what goes into the products
            counts, so that any number made of the outputs will do.
        batches: leaves [B, ...], of one shape; at least one.
        masks: as `make_masks` gives them; None chooses as `update_matrix`.
        untapped: called with a layer that cannot be tapped, and the reason; unless it raises, the
            layer is masked and no more: without masks by magnitude.
        report: called with the number of layers done.

    Raises:
        InputError: the scheme is of other layers; or, where `untapped` is left as it is, a layer
            cannot be tapped.
    """
    layers = tuple(layers)
    n = n_by_path(scheme, layers)  # refuses a scheme of other layers
    kernel_weights(params, layers)  # and parameters without them
    pruned = [layer for layer in grouped(layers) if scheme[layer.name].n < layer.m]
    done = itertools.count(1)

    def turn(w: jax.Array, layer: LayerSpec, own: Statistics | str) -> jax.Array:
        report(next(done))
        mask = (masks or {}).get(layer.path)
        if not isinstance(own, str):
            return update_layer(w, layer, own, scheme[layer.name].n, mask=mask)
        untapped(layer, own)
        by_magnitude = make_masks(params, layers, n) if mask is None else {layer.path: mask}
        kept = where_kept(by_magnitude[layer.path], w)
        return kept if layer.roles is None else one_slice(kept, layer.index or 0, layer.roles)

    return change_in_turn(loss, params, batches, pruned, turn) if pruned else params


def _padded(inputs: int, run: int, m: int) -> np.ndarray:
    """Lists the inputs with the last group of each run filled up, `inputs` where there is none."""
    width = -(-run // m) * m
    places = np.full((inputs // run, width), inputs)
    places[:, :run] = np.arange(inputs).reshape(-1, run)
    block = _block(m)
    return np.pad(places.reshape(-1), (0, -places.size % block), constant_values=inputs)


def _block(m: int) -> int:
    return max(BLOCK // m, 1) * m


def _factor(h: jax.Array, is_own: np.ndarray) -> jax.Array:
    """Returns U, upper, of H⁻¹ = UᵀU: U_jj² is the entry of H⁻¹ of the inputs from j on."""
    damping = DAMPING * jnp.trace(h) / float(is_own.sum())
    damping = jnp.where(damping > 0, damping, jnp.ones_like(damping))
    # With the inputs reversed the lower factor of H is an upper one, whose inverse is U.
    lower = jnp.linalg.cholesky((h + damping * jnp.eye(h.shape[0], dtype=h.dtype))[::-1, ::-1])
    eye = jnp.eye(h.shape[0], dtype=h.dtype)
    return jnp.triu(jax.scipy.linalg.solve_triangular(lower[::-1, ::-1], eye, lower=False))


@partial(jax.jit, static_argnums=(4, 5))
def _solved(
    w: jax.Array, u: jax.Array, mask: jax.Array | None, n: jax.Array, m: int, size: int
) -> jax.Array:
    """Goes through the inputs: W [P, O] and U [P, P], P a multiple of the size of a block."""
    dot = partial(jnp.matmul, precision="highest")

    def block(number: jax.Array, w: jax.Array) -> jax.Array:
        start = number * size
        rows = jax.lax.dynamic_slice_in_dim(w, start, size)
        across = jax.lax.dynamic_slice_in_dim(u, start, size)  # [size, P]
        own = jax.lax.dynamic_slice_in_dim(across, start, size, axis=1)

        def group(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple:
            rows, errors = carry
            first = index * m
            here = jax.lax.dynamic_slice_in_dim(rows, first, m)
            along = jax.lax.dynamic_slice_in_dim(own, first, m)  # [m, size]
            among = jax.lax.dynamic_slice_in_dim(along, first, m, axis=1)
            if mask is None:
                keep = top_scores(jnp.square(here / jnp.diagonal(among)[:, None]), n, m, _COLUMN)
            else:
                keep = jax.lax.dynamic_slice_in_dim(mask, start + first, m)

            def column(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple:
                here, errors = carry
                kept = jnp.where(keep[j], here[j], jnp.zeros_like(here[j]))
                error = (here[j] - kept) / among[j, j]
                # A row of U begins at its own input: only what is still to come changes.
                here = (here - among[j][:, None] * error[None]).at[j].set(kept)
                return here, errors.at[j].set(error)

            here, own_errors = jax.lax.fori_loop(0, m, column, (here, jnp.zeros_like(here)))
            # Later groups change once a group, later blocks once a block, by all of its errors.
            rows = rows - dot(along.T, own_errors)
            rows = jax.lax.dynamic_update_slice_in_dim(rows, here, first, 0)
            return rows, jax.lax.dynamic_update_slice_in_dim(errors, own_errors, first, 0)

        rows, errors = jax.lax.fori_loop(0, size // m, group, (rows, jnp.zeros_like(rows)))
        later = jnp.arange(w.shape[0]) >= start + size
        w = w - jnp.where(later[:, None], dot(across.T, errors), jnp.zeros_like(w))
        return jax.lax.dynamic_update_slice_in_dim(w, rows, start, 0)

    return jax.lax.fori_loop(0, w.shape[0] // size, block, w)

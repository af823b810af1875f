"""The rise of the loss by what a product sees: half the sum of w² E[x²] E[g²] over weights removed.

x are the inputs and g the output gradients of the layer's product (`trace.taps`): the diagonal of
K-FAC's curvature (Martens and Grosse, 2015). It takes one gradient a batch, where Fisher's squares
take one an example, and knows each weight by its row and column alone.

Scale: that of the loss, as with one example a gradient of Fisher: g is of an example's loss, and
the squares are summed over the positions of an example, whose gradients count as independent.
Letters: S slices of a kernel, G feature groups of a convolution, K inputs, O outputs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.calibration import Show, shown
from domino_jax.allocate.curvature import Measured, curvature_scheme
from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.quadratic import quadratic_table
from domino_jax.allocate.scores import Scores
from domino_jax.core.canonical import from_matrices
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel, kernel_weights, kernels
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import Scheme
from domino_jax.trace.taps import NOT_SEEN, Statistics, tap


def kdiag_table(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    *,
    scores: Scores = {},  # noqa: B006 (read only)
) -> LossTable:
    """Makes the table of the diagonal of K-FAC's curvature, in one pass over the batches.

    Args:
        layers: as `find_layers` gives them.
        params: of the dense network.
        loss: (params, batch) -> mean loss over the examples, which do not depend on each other.
        batches: leaves [B, ...], of one shape; at least one.
        scores: what the masks go by, as `make_scores` gives them.

    Raises:
        InputError: a grouped layer cannot be tapped, with the reason; or as `tap`.
    """
    layers = tuple(layers)
    curvature = by_weight(layers, params, loss, batches, _curvature)
    return quadratic_table(layers, params, curvature, scores)


def by_weight(
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
    value: Callable[[Statistics], jax.Array],
    *,
    gradients: bool = True,
) -> dict[str, jax.Array]:
    """Lays what is made of a layer's statistics out as its weights, by path; 0 without statistics.

    Args:
        layers: as for `kdiag_table`, and so are params, loss, batches and errors.
        params: as above.
        loss: as above.
        batches: as above.
        value: statistics without H -> [G, K, O / G].
        gradients: whether the value is of gradients, too.
    """
    layers = tuple(layers)
    names = [layer.name for layer in grouped(layers)]
    taps = tap(loss, params, batches, layers, products=False, gradients=gradients, only=names)
    for name, reason in taps.untapped.items():
        require_tapped(name, reason)
    shapes = {path: w.shape for path, w in kernel_weights(params, layers).items()}

    @jax.jit
    def lay_out(statistics: dict[str, Statistics]) -> dict[str, jax.Array]:
        values = {name: value(own) for name, own in statistics.items()}
        return {
            path: _laid_out(kernel, values, shapes[path])
            for path, kernel in kernels(layers).items()
        }

    return lay_out(dict(taps.statistics))


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'kdiag' of `ALLOCATORS`; at the running batch statistics, as 'fisher'."""

    def table_of(measured: Measured, show: Show) -> LossTable:
        params, loss, batches, scores = measured
        return kdiag_table(problem.layers, params, loss, shown(batches, show), scores=scores)

    return curvature_scheme(problem, "kdiag", table_of)


def require_tapped(name: str, reason: str) -> None:
    """Refuses a layer that has no statistics, unless no loss depends on it.

    Raises:
        InputError: the layer, the reason, and what to do.
    """
    if reason != NOT_SEEN:
        raise InputError(
            f"{name}: expected a layer whose inputs the trace can see, got one of which it cannot "
            f"({reason}): keep it dense by a rule, or take the method 'fisher' or 'sensitivity'"
        )


def _curvature(own: Statistics) -> jax.Array:
    groups = own.squares.shape[0]
    return own.squares[:, :, None] * (own.rows * own.gradients).reshape(groups, 1, -1)


def _laid_out(kernel: Kernel, values: Mapping[str, jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Lays [G, K, O / G] of each slice out as the kernel."""
    roles, found = kernel.slices[0].roles, [values.get(each.name) for each in kernel.slices]
    like = next((own for own in found if own is not None), None)
    if roles is None or like is None:
        return jnp.zeros(shape)
    slices = jnp.stack([jnp.zeros_like(like) if own is None else own for own in found])
    return from_matrices(slices.swapaxes(1, 2), shape, roles)  # [S, K, G, O / G]

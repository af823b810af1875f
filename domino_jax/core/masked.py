"""Masks of a whole network: made, checked and laid on its parameters.

Masks are a dict path -> bool, for the grouped kernels only; n is a dict path -> int32, [] or [S].
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core import masks as _masks
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import count_weights
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import Kernel, kernel_weights, kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves, require_known

Params = TypeVar("Params")
Masks = Mapping[str, jax.Array]
Levels = Mapping[str, jax.Array | np.ndarray | int]
Scores = Mapping[str, jax.Array] | Callable[[str, jax.Array], jax.Array]


def make_masks(
    params: Any, layers: Iterable[LayerSpec], n: Levels, *, scores: Scores | None = None
) -> dict[str, jax.Array]:
    """Returns the top-n mask of every grouped kernel; compiled once for all calls.

    Args:
        params: parameter pytree; leaves that are no arrays may be among them.
        layers: as `find_layers` gives them.
        n: path -> weights kept of every M, [] or [S], as `n_by_path` gives it. A traced n must be
            integers in 1..M too, which nobody can check: above M all are kept, below 1 none.
        scores: what is kept instead of the largest magnitudes: path -> a score for each weight, of
            the kernel's shape; or a function (path, weights) -> scores. The largest scores are
            kept, negative ones too. Kernels without an entry go by magnitude.

    Raises:
        InputError: the parameters lack a kernel, or it has another shape than its layers; a kernel
            has no n, or one that is no integer in 1..M or of another shape; scores of another
            shape, or for no kernel.
    """
    layers = tuple(layers)
    grouped = kernels(layers)
    weights = kernel_weights(params, layers)
    checked_n = {path: _checked_n(path, n, kernel) for path, kernel in grouped.items()}
    scored = _scored(weights, scores)
    plan = tuple((path, kernel.m, kernel.axes) for path, kernel in grouped.items())
    return _compiled_masks(plan, weights | scored, checked_n, frozenset(scored))


def make_unstructured_masks(
    params: Any, layers: Iterable[LayerSpec], n: Levels
) -> dict[str, jax.Array]:
    """Returns masks of as many weights as those of `make_masks`, wherever in the layer they lie.

    The largest of each layer: an upper bound to compare with, whose zeros no device skips.
    Arguments and errors are those of `make_masks`.
    """
    layers = tuple(layers)
    weights = kernel_weights(params, layers)

    def of_kernel(path: str, kernel: Kernel) -> jax.Array:
        layer = next(layer for layer in kernel.slices if layer.groups)
        counts = [count_weights(layer, kept) for kept in range(kernel.m + 1)]
        kept = jnp.asarray(counts, jnp.int32)[_checked_n(path, n, kernel)]
        return _masks.top_k(weights[path], kept, kernel.axes)

    return {path: of_kernel(path, kernel) for path, kernel in kernels(layers).items()}


MakeMasks = Callable[[Any, Iterable[LayerSpec], Levels], dict[str, jax.Array]]
PATTERNS: Mapping[str, MakeMasks] = {
    "n:m": make_masks,
    "unstructured": make_unstructured_masks,
}


@partial(jax.jit, static_argnums=(0, 3), inline=True)
def _compiled_masks(
    plan: tuple[tuple[str, int, Axes], ...],
    values: Mapping[str, jax.Array],
    n: Mapping[str, jax.Array],
    by_score: frozenset[str],
) -> dict[str, jax.Array]:
    """Makes the masks of the kernels in the plan (path, M, axes), which `jit` caches by.

    Operation by operation they would take 40 times as long; within another `jit` this is inlined.
    """
    return {
        path: (_masks.top_scores if path in by_score else _masks.top_n)(
            values[path], n[path], m, axes
        )
        for path, m, axes in plan
    }


def _scored(weights: Mapping[str, jax.Array], scores: Scores | None) -> dict[str, jax.Array]:
    """Returns the scores by path, checked.

    Raises:
        InputError: scores for no kernel, or not one for each weight.
    """
    if scores is None:
        return {}
    if callable(scores):
        scores = {path: scores(path, weight) for path, weight in weights.items()}
    if not isinstance(scores, Mapping):
        raise InputError(
            "scores: expected path -> a score for each weight, or a function (path, weights) -> "
            f"scores, got a {type(scores).__name__}"
        )
    require_known(scores, list(weights), what="kernel in the scores")
    for path, score in scores.items():
        shape, dtype = jnp.shape(score), jnp.result_type(score)
        if shape != jnp.shape(weights[path]) or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"{path}: expected floating scores of the shape {jnp.shape(weights[path])}, one "
                f"for each weight, got {dtype} of the shape {shape}"
            )
    return dict(scores)


def _checked_n(path: str, n: Levels, kernel: Kernel) -> Any:
    """Returns the n of a kernel, [] or [S]; its values are checked unless they are traced.

    Raises:
        InputError: it is missing, or no integer in 1..M for each slice.
    """
    kept: Any = n.get(path)
    m, is_int = kernel.m, isinstance(kept, int) and not isinstance(kept, bool)
    dtype = getattr(kept, "dtype", None)
    if not is_int and (dtype is None or not jnp.issubdtype(dtype, jnp.integer)):
        got = repr(kept) if dtype is None else f"{kept} of type {dtype}"
        raise InputError(f"{path}: expected {_expected_n(m)}, got {got}")
    shapes = [(), (len(kernel.slices),)] if kernel.axes.stack else [()]
    if np.shape(kept) not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise InputError(f"{path}: expected an n of the shape {allowed}, got {np.shape(kept)}")
    is_traced = isinstance(kept, jax.core.Tracer)
    if not is_traced and getattr(kept, "is_fully_addressable", True):
        values = np.asarray(kept)
        if not ((values >= 1) & (values <= m)).all():
            raise InputError(f"{path}: expected {_expected_n(m)}, got {values.tolist()}")
    return jnp.asarray(kept, jnp.int32)


def _expected_n(m: int) -> str:
    return f"the number of weights to keep of every {m}, 1 to {m} (n_by_path reads it off a scheme)"


def apply_masks(params: Params, masks: Masks) -> Params:
    """Sets the weights outside the masks to zero; a gradient reaches the survivors only.

    Raises:
        InputError: a mask is of no parameter, or of another shape.
    """
    by_path = leaves_by_path(params)
    require_known(masks, list(by_path), what="parameter in the masks")
    for path, mask in masks.items():
        if jnp.shape(mask) != jnp.shape(by_path[path]):
            raise InputError(
                f"{path}: expected a mask of the shape {jnp.shape(by_path[path])}, got "
                f"{jnp.shape(mask)}"
            )
    return replace_leaves(
        params, {path: where_kept(mask, by_path[path]) for path, mask in masks.items()}
    )


def hard_mask(
    params: Params, layers: Iterable[LayerSpec], n: Levels, *, scores: Scores | None = None
) -> Params:
    """Keeps the n largest of every M, for the forward pass and for the gradient.

    Arguments and errors are those of `make_masks`.
    """
    return apply_masks(params, make_masks(params, layers, n, scores=scores))


def where_kept(mask: jax.Array, w: jax.Array) -> jax.Array:
    """Returns w where the mask is true, and zero elsewhere."""
    return jnp.where(mask, w, jnp.zeros_like(w))

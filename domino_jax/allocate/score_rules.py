"""The scoring rules of `scores`: arguments and results are those of `make_scores`."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.fisher import fisher_information, micro_of
from domino_jax.allocate.kdiag import by_weight
from domino_jax.allocate.scores import Scores
from domino_jax.core.kernels import kernel_weights
from domino_jax.core.layers import LayerSpec
from domino_jax.core.ranks import at_least_float32
from domino_jax.trace.taps import Statistics

Loss = Callable[[Any, Any], jax.Array]


def magnitude(
    layers: tuple[LayerSpec, ...], params: Any, loss: Loss, batches: Iterable[Any]
) -> Scores:
    """Makes none: without a score a kernel goes by the magnitude of its weights."""
    del layers, params, loss, batches
    return {}


def wanda(layers: tuple[LayerSpec, ...], params: Any, loss: Loss, batches: Iterable[Any]) -> Scores:
    """Makes |w| times the root of E[x²]; the number of rows changes no order within a group."""

    def norms(own: Statistics) -> jax.Array:
        outputs = own.gradients.shape[0] // own.squares.shape[0]
        return jnp.repeat(jnp.sqrt(own.squares)[:, :, None], outputs, axis=2)

    of_inputs = by_weight(layers, params, loss, batches, norms, gradients=False)
    weights = _wide(kernel_weights(params, layers))
    return {path: jnp.abs(w) * of_inputs[path] for path, w in weights.items()}


def fisher(
    layers: tuple[LayerSpec, ...], params: Any, loss: Loss, batches: Iterable[Any]
) -> Scores:
    """Makes w² F, F as in `fisher`: twice what a diagonal quadratic expects of the weight."""
    stream = iter(batches)
    first = list(islice(stream, 1))
    micro = micro_of(first) if first else 1
    information = fisher_information(layers, params, loss, chain(first, stream), micro=micro)
    weights = _wide(kernel_weights(params, layers))
    return {path: jnp.square(w) * information[path] for path, w in weights.items()}


def _wide(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Makes them float32 at least, as all that is measured of a network is."""
    return {path: w.astype(at_least_float32(w.dtype)) for path, w in weights.items()}

"""Nothing is removed: what every other scheme is compared with."""

from collections.abc import Iterable

from domino_jax.allocate.problem import Problem
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import NM, Scheme


def dense_scheme(layers: Iterable[LayerSpec]) -> Scheme:
    """Returns the scheme that prunes nothing: N == M in every grouped layer."""
    return {layer.name: NM(layer.m, layer.m) for layer in grouped(layers)}


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'dense' of `ALLOCATORS`; asks for no budget."""
    return dense_scheme(problem.layers)

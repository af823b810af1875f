"""The count of a vote: for each layer its groups with fewer than n weights above threshold.

Where weights are split over devices, every device counts what it has, and one small sum over the
devices serves all layers together.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from domino_jax.core import masks
from domino_jax.core.kernels import kernels, threshold_axis
from domino_jax.core.layers import LayerSpec, grouped

Count = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], jax.Array]
# Path of a kernel, its axis that is split, that of its thresholds, the mesh axis.
Splits = tuple[tuple[str, int, int, str], ...]


def short_counter(layers: tuple[LayerSpec, ...]) -> Count:
    """Makes (weights, n, thresholds), each by path -> int32, one count for each grouped layer."""
    here = jax.jit(partial(_stacked_counts, layers))

    @cache  # a run has one
    def over(mesh: Mesh, splits: Splits) -> Count:
        return _over_devices(layers, mesh, splits)

    def count(
        weights: Mapping[str, Any], n: Mapping[str, Any], threshold: Mapping[str, Any]
    ) -> jax.Array:
        found = _splits(layers, weights)
        count_all = here if found is None else over(*found)
        return count_all(weights, n, threshold)

    return count


def _stacked_counts(layers: tuple[LayerSpec, ...], weights: Any, n: Any, threshold: Any) -> Any:
    return _in_order(layers, _counts(layers, weights, n, threshold))


def _counts(layers: tuple[LayerSpec, ...], weights: Any, n: Any, threshold: Any) -> dict[str, Any]:
    return {
        path: masks.count_short(weights[path], n[path], threshold[path], kernel.m, kernel.axes)
        for path, kernel in kernels(layers).items()
    }


def _in_order(layers: tuple[LayerSpec, ...], short: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.stack([short[layer.path].reshape(-1)[layer.index or 0] for layer in grouped(layers)])


def _over_devices(layers: tuple[LayerSpec, ...], mesh: Mesh, splits: Splits) -> Count:
    by_path = kernels(layers)
    own = {path: name for path, _, _, name in splits}
    names = tuple(sorted(set(own.values())))
    everywhere = PartitionSpec()

    weights, threshold = dict.fromkeys(by_path, everywhere), dict.fromkeys(by_path, everywhere)
    for path, axis, place, name in splits:
        weights[path] = PartitionSpec(*[None] * axis, name)
        threshold[path] = PartitionSpec(*[None] * place, name)

    def count(weights: Any, n: Any, threshold: Any) -> jax.Array:
        short = _counts(layers, weights, n, threshold)
        first = {name: jax.lax.axis_index(name) == 0 for name in names}
        for path in short:  # what lies whole on several devices counts on the first of them
            for name in names:
                if name != own.get(path):
                    short[path] = jnp.where(first[name], short[path], 0)
        return jax.lax.psum(_in_order(layers, short), names)

    return jax.jit(
        jax.shard_map(
            count,
            mesh=mesh,
            in_specs=(weights, dict.fromkeys(by_path, everywhere), threshold),
            out_specs=everywhere,
            check_vma=False,
        )
    )


def _splits(
    layers: tuple[LayerSpec, ...], weights: Mapping[str, Any]
) -> tuple[Mesh, Splits] | None:
    """Reads how the weights lie; None where none is split, or one in a way that cuts groups."""
    meshes, splits = set(), []
    for path, kernel in kernels(layers).items():
        sharding = getattr(weights[path], "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
            continue
        if not isinstance(sharding.mesh, Mesh):
            return None
        named = [(axis, name) for axis, name in enumerate(sharding.spec) if name is not None]
        if len(named) != 1 or not isinstance(named[0][1], str):
            return None
        ((axis, name),) = named
        parts = sharding.mesh.shape[name]
        place = threshold_axis(kernel, weights[path].shape, axis, parts)
        if place is None:
            return None
        meshes.add(sharding.mesh)
        splits.append((path, axis, place, name))
    return (meshes.pop(), tuple(splits)) if len(meshes) == 1 else None

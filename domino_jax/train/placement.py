"""Where the arrays of a run lie: large weights split over the mesh's 'model', all else whole.

What belongs to a weight (its gradient, momentum, mask, thresholds) is split as it is, and never
within a group of M: masks are made where the weights lie. A step gathers a weight when it uses it
(fully sharded data parallelism).

    kernel [I, O]     O is split where it divides, else I in whole groups of M, else nothing is
    thresholds        [S, W, G, O]: O is split, or G, as the kernel is

Letters: S stack slices, W window positions, I inputs, O outputs, G groups along the inputs.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from domino_jax.core.kernels import Kernel, kernels, threshold_axis
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, path_of

T = TypeVar("T")
SMALL = 1024  # elements of an array that is not worth a message of its own


@dataclass(frozen=True)
class Placement:
    """The devices, and which arrays are split over them.

    Attributes:
        mesh: of all devices, with the axes 'data' and 'model'.
        split: (path of a parameter, shape of what belongs to it) -> the axis that is split over
            'model'; whatever is not listed lies whole on every device.
        whole: paths of large parameters of which no axis can be split.
    """

    mesh: Mesh
    split: Mapping[tuple[str, tuple[int, ...]], int]
    whole: tuple[str, ...] = ()


def placement_of(mesh: Mesh, layers: Iterable[LayerSpec], params: Any) -> Placement:
    """Decides what of a network is split over a mesh.

    Args:
        mesh: as `mesh.make_mesh` makes it.
        layers: of the network.
        params: its parameters, or their shapes.
    """
    parts, by_path = mesh.shape["model"], kernels(layers)
    split: dict[tuple[str, tuple[int, ...]], int] = {}
    whole = []
    for path, leaf in leaves_by_path(params).items():
        shape = tuple(np.shape(leaf))
        if parts == 1 or math.prod(shape) < SMALL:
            continue
        axes = _axes(shape, parts, by_path.get(path))
        if axes is None:
            whole.append(path)
            continue
        split[path, shape] = axes[0]
        if path in by_path:
            split[path, _threshold_shape(shape, by_path[path])] = axes[1]
    return Placement(mesh, split, tuple(whole))


def place(placement: Placement, tree: T) -> T:
    """Puts a copy of every leaf where it belongs (a copy also on one device: a step may donate it).

    From device to device where one process has all devices, or a leaf lies so already.
    """

    def copy(leaf: Any, sharding: NamedSharding) -> jax.Array:
        direct = isinstance(leaf, jax.Array) and (
            jax.process_count() == 1 or leaf.sharding == sharding
        )
        # Copied first: on several devices `may_alias=False` still shares the buffer of one of them.
        return jax.device_put(jnp.copy(leaf) if direct else np.asarray(leaf), sharding)

    return jax.tree.map(copy, tree, shardings(placement, tree))


def kept(placement: Placement, tree: T) -> T:
    """Within a jitted function: says that the leaves lie where they belong."""
    return jax.lax.with_sharding_constraint(tree, shardings(placement, tree))


def shardings(placement: Placement, tree: Any) -> Any:
    """Returns the sharding of every leaf, in a tree like the given one.

    A leaf belongs to the parameter whose path its own path ends in: 'opt_state/0/trace/a/kernel'
    to 'a/kernel'.
    """

    def of_leaf(keys: Any, leaf: Any) -> NamedSharding:
        axis = _axis(placement, path_of(keys).split("/"), tuple(np.shape(leaf)))
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "model")
        return NamedSharding(placement.mesh, spec)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def _axis(placement: Placement, names: list[str], shape: tuple[int, ...]) -> int | None:
    if not placement.split:
        return None
    endings = ("/".join(names[start:]) for start in range(len(names)))
    found = (placement.split.get((ending, shape)) for ending in endings)
    return next((axis for axis in found if axis is not None), None)


def _axes(shape: tuple[int, ...], parts: int, kernel: Kernel | None) -> tuple[int, int] | None:
    """Returns the axis of a parameter that is split and that of its thresholds; None: neither."""
    if kernel is None:  # no groups to cut
        largest = max(range(len(shape)), key=lambda axis: (shape[axis] % parts == 0, shape[axis]))
        return None if shape[largest] % parts else (largest, largest)
    for axis in (*kernel.axes.outputs[:1], *kernel.axes.inputs[:1]):
        of_thresholds = threshold_axis(kernel, shape, axis, parts)
        if of_thresholds is not None:
            return axis, of_thresholds
    return None


def _threshold_shape(shape: tuple[int, ...], kernel: Kernel) -> tuple[int, ...]:
    axes = kernel.axes
    s, w, i, o = (
        math.prod(shape[axis] for axis in part)
        for part in (axes.stack, axes.window, axes.inputs, axes.outputs)
    )
    return s, w, -(-i // kernel.m), o

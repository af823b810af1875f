"""Names and layouts of PyTorch for our parameters, by rule: no table of any network.

`layer1/0/conv1/kernel` (HWIO) is `layer1.0.conv1.weight` (OIHW); a matrix (inputs, outputs) is
(outputs, inputs), a packed `in_proj_kernel` too: `in_proj_weight`; batch norm's scale, bias, mean
and var are weight, bias, running_mean and running_var, beside a counter num_batches_tracked. Which
axis is which comes from the trace.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.masks import Axes

COUNTER = "num_batches_tracked"
Names = Callable[[str], str]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class Tensor(NamedTuple):
    """One parameter or statistic in both worlds.

    Attributes:
        path: of our leaf.
        name: of PyTorch's tensor.
        order: axis i of PyTorch's tensor is axis order[i] of ours.
        shape: of PyTorch's tensor.
        axes: of PyTorch's tensor, None where it is no convolution or matrix product.
    """

    path: str
    name: str
    order: tuple[int, ...]
    shape: tuple[int, ...]
    axes: Axes | None


def torch_name(path: str) -> str:
    """Returns PyTorch's name of a leaf: 'bn1/scale' -> 'bn1.weight'."""
    *owner, leaf = path.split("/")
    if leaf.endswith("_kernel"):  # one of several kernels of a module, such as a packed projection
        leaf = f"{leaf.removesuffix('_kernel')}_weight"
    return ".".join([*owner, _LEAVES.get(leaf, leaf)])


def tensors(
    params: Any, stats: Any, axes: Mapping[str, Axes], names: Names = torch_name
) -> tuple[Tensor, ...]:
    """Lists all leaves of a network with PyTorch's names and layouts.

    Args:
        params: pytree of arrays or ShapeDtypeStructs.
        stats: pytree of running statistics.
        axes: path -> axes of our kernels, as `axes_by_path` gives them.
        names: path -> name.

    Raises:
        InputError: two leaves get one name, or a kernel has no such layout (it is stacked, or has
            several input or output axes).
    """
    found: dict[str, Tensor] = {}
    for path, leaf in (paths.leaves_by_path(params) | paths.leaves_by_path(stats)).items():
        name = names(path)
        if name in found:
            raise InputError(f"{path} and {found[name].path} are both named {name!r} for PyTorch")
        order, turned = _order(path, len(leaf.shape), axes.get(path))
        shape = tuple(leaf.shape[axis] for axis in order)
        found[name] = Tensor(path, name, order, shape, turned)
    return tuple(found.values())


def plain_tensors(params: Any, stats: Any, axes: Mapping[str, Axes]) -> tuple[Tensor, ...]:
    """Lists all leaves as they are, named by their paths, for a network PyTorch does not know."""
    leaves = paths.leaves_by_path(params) | paths.leaves_by_path(stats)
    return tuple(
        Tensor(path, path, tuple(range(len(leaf.shape))), tuple(leaf.shape), axes.get(path))
        for path, leaf in leaves.items()
    )


def _order(path: str, rank: int, axes: Axes | None) -> tuple[tuple[int, ...], Axes | None]:
    if axes is None:
        return tuple(range(rank)), None
    if axes.stack or len(axes.inputs) != 1 or len(axes.outputs) != 1:
        raise InputError(
            f"{path}: PyTorch has no layout for stacked kernels, or for several input or output "
            f"axes (stack {axes.stack}, inputs {axes.inputs}, outputs {axes.outputs})"
        )
    window = tuple(range(2, rank))
    return axes.outputs + axes.inputs + axes.window, Axes((), window, (1,), (0,))


def to_torch(leaves: Mapping[str, Any], layout: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Brings leaves to PyTorch's names and layouts, contiguous; leaves may be missing.

    Args:
        leaves: path -> array.
        layout: as `tensors` gives it.
    """
    # ascontiguousarray would make a rank of 1 out of 0.
    return {
        t.name: np.asarray(leaves[t.path]).transpose(t.order).copy(order="C")
        for t in layout
        if t.path in leaves
    }


def from_torch(arrays: Mapping[str, np.ndarray], layout: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Brings PyTorch's tensors to our paths and layouts: the inverse of `to_torch`."""
    return {
        t.path: arrays[t.name].transpose(np.argsort(t.order).tolist()).copy(order="C")
        for t in layout
        if t.name in arrays
    }


def counters(layout: Sequence[Tensor]) -> tuple[str, ...]:
    """Lists the names of the counters that PyTorch keeps beside running statistics."""
    owners = [t.name.rpartition(".") for t in layout]
    return tuple(f"{owner}{dot}{COUNTER}" for owner, dot, last in owners if last == "running_mean")

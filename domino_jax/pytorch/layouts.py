"""Names and layouts of PyTorch for our parameters, by rule: no table of any network.

`layer1/0/conv1/kernel` (HWIO) is `layer1.0.conv1.weight` (OIHW); a matrix (inputs, outputs) is
(outputs, inputs), a packed `in_proj_kernel` too: `in_proj_weight`; batch norm's scale, bias, mean
and var are weight, bias, running_mean and running_var, beside a counter num_batches_tracked. Which
axis is which comes from the trace: of the layers, whatever rules they were made with.

A transposed convolution is one over inputs that zeros spread apart; PyTorch keeps its kernel as
(inputs, outputs, window), the window in the other direction.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from domino_jax.core import paths
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError, place, said
from domino_jax.core.layers import LayerSpec, counted

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
        flips: axes of PyTorch's tensor that run backwards in ours.
    """

    path: str
    name: str
    order: tuple[int, ...]
    shape: tuple[int, ...]
    axes: Axes | None
    flips: tuple[int, ...] = ()


def torch_name(path: str) -> str:
    """Returns PyTorch's name of a leaf: 'bn1/scale' -> 'bn1.weight'."""
    *owner, leaf = path.split("/")
    if leaf.endswith("_kernel"):  # one of several kernels of a module, such as a packed projection
        leaf = f"{leaf.removesuffix('_kernel')}_weight"
    return ".".join([*owner, _LEAVES.get(leaf, leaf)])


def tensors(
    params: Any, stats: Any, layers: Iterable[LayerSpec], names: Names = torch_name
) -> tuple[Tensor, ...]:
    """Lists all leaves of a network with PyTorch's names and layouts.

    Args:
        params: pytree of arrays or ShapeDtypeStructs.
        stats: pytree of running statistics.
        layers: of the network, made with any rules.
        names: path -> name.

    Raises:
        InputError: two leaves get one name, a leaf gets none, or a kernel has no such layout (it
            is stacked, has several input or output axes, or its products read it in different
            ways).
    """
    layer_by_path = {layer.path: layer for layer in counted(layers)}
    tensor_by_name: dict[str, Tensor] = {}
    for path, leaf in (paths.leaves_by_path(params) | paths.leaves_by_path(stats)).items():
        name = _name_of(path, names)
        if name in tensor_by_name:
            raise InputError(
                f"{path} and {tensor_by_name[name].path} are both named {name!r} for PyTorch; "
                "give each a name of its own"
            )
        tensor_by_name[name] = _tensor(path, name, tuple(leaf.shape), layer_by_path.get(path))
    return tuple(tensor_by_name.values())


def _name_of(path: str, names: Names) -> str:
    try:
        name = names(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's function does, sys.exit too
        where = place(error, lambda module: module != __name__)
        raise InputError(
            f"{path}: expected a name for PyTorch, got {said(error)}{where}"
        ) from error
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: expected a name for PyTorch, a string, got {name!r}")
    return name


def plain_tensors(params: Any, stats: Any, layers: Iterable[LayerSpec]) -> tuple[Tensor, ...]:
    """Lists all leaves as they are, named by their paths, for a network PyTorch does not know."""
    leaves = paths.leaves_by_path(params) | paths.leaves_by_path(stats)
    roles = {layer.path: layer.roles for layer in layers}
    return tuple(
        Tensor(path, path, tuple(range(len(leaf.shape))), tuple(leaf.shape), roles.get(path))
        for path, leaf in leaves.items()
    )


def _tensor(path: str, name: str, shape: tuple[int, ...], layer: LayerSpec | None) -> Tensor:
    if layer is None or layer.roles is None:
        return Tensor(path, name, tuple(range(len(shape))), shape, None)
    roles = _require_layout(path, layer, layer.roles)
    window = tuple(range(2, len(shape)))
    if layer.transposed:
        order = roles.inputs + roles.outputs + roles.window
        turned = Axes((), window, (0,), (1,))
        backwards = {*roles.window} ^ {*(layer.flipped or ())}
    else:
        order = roles.outputs + roles.inputs + roles.window
        turned = Axes((), window, (1,), (0,))
        backwards = {*(layer.flipped or ())}
    flips = tuple(i for i, axis in enumerate(order) if axis in backwards)
    return Tensor(path, name, order, tuple(shape[axis] for axis in order), turned, flips)


def _require_layout(path: str, layer: LayerSpec, roles: Axes) -> Axes:
    """Refuses kernels that no layer of PyTorch keeps so."""
    if roles.stack or len(roles.inputs) != 1 or len(roles.outputs) != 1:
        raise InputError(
            f"{path}: PyTorch has no layout for stacked kernels, or for several input or output "
            f"axes (stack {roles.stack}, inputs {roles.inputs}, outputs {roles.outputs})"
        )
    if layer.flipped is None:
        raise InputError(f"{path}: PyTorch has no layout for a kernel that is also read backwards")
    if layer.transposed and layer.convolution_groups > 1:
        raise InputError(
            f"{path}: PyTorch's layout of a grouped transposed convolution is not written here "
            f"({layer.convolution_groups} groups); use one kernel for each group"
        )
    return roles


def to_torch(leaves: Mapping[str, Any], layout: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Brings leaves to PyTorch's names and layouts, contiguous; leaves may be missing.

    Args:
        leaves: path -> array.
        layout: as `tensors` gives it.
    """
    # ascontiguousarray would make a rank of 1 out of 0.
    return {
        t.name: np.flip(np.asarray(leaves[t.path]).transpose(t.order), t.flips).copy(order="C")
        for t in layout
        if t.path in leaves
    }


def from_torch(arrays: Mapping[str, np.ndarray], layout: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Brings PyTorch's tensors to our paths and layouts: the inverse of `to_torch`."""
    return {
        t.path: np.flip(arrays[t.name], t.flips)
        .transpose(np.argsort(t.order).tolist())
        .copy(order="C")
        for t in layout
        if t.name in arrays
    }


def counters(layout: Sequence[Tensor]) -> tuple[str, ...]:
    """Lists the names of the counters that PyTorch keeps beside running statistics."""
    owners = [t.name.rpartition(".") for t in layout]
    return tuple(f"{owner}{dot}{COUNTER}" for owner, dot, last in owners if last == "running_mean")

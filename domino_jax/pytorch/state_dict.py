"""Weights of a PyTorch network from a state dict: .safetensors, or .pth without running its code.

Names are joined by rule (`torch_layout`); whatever is missing, too much or of another shape is
refused by name. Files as torchvision has published them are taken with what it changes itself when
it loads them: older names, and auxiliary heads that the network does without. Positions of a vision
transformer for images of another size are resized as torchvision does.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masks import Axes
from domino_jax.pytorch import positions
from domino_jax.pytorch.layouts import Names, Tensor, counters, from_torch, tensors, torch_name

SUFFIXES = (".pth", ".safetensors")
_FLOATS = ("float16", "bfloat16", "float32")
# torchvision's MLPBlock (pull request 6053): its published vision transformers have the old names.
_RENAMED = ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3."))
_AUXILIARY = r"^aux[12]\."  # heads that help training alone (GoogLeNet)


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Says whether a path is named like a state dict of PyTorch."""
    return str(path).endswith(SUFFIXES)


def restore(
    path: str | os.PathLike[str],
    params: Any,
    stats: Any,
    axes: Mapping[str, Axes],
    *,
    fresh: str | None = None,
    names: Names = torch_name,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, Any]:
    """Reads a state dict into the network.

    Args:
        path: a .safetensors file (PyTorch is not needed), or a .pth file with tensors alone.
        params: pytree of arrays of the network.
        stats: the same of its running statistics.
        axes: as `core.kernels.axes_by_path` gives them.
        fresh: a module, such as 'fc', that keeps its values here; the file's are not looked at.
        names: path -> name.
        say: told in a line what of the file was changed to fit.

    Returns:
        params and stats, numpy arrays.

    Raises:
        InputError: one line; the file cannot be read, holds something else than tensors, or does
            not fit the network.
    """
    layout = tensors(params, stats, axes, names)
    leaves = paths.leaves_by_path(params) | paths.leaves_by_path(stats)
    own = [t.name for t in layout if fresh is not None and _within(fresh, t.path)]
    found = read(path)
    try:
        fitting = _resized(found, layout, lambda line: say(f"{path}: {line}"))
        arrays = _joined(fitting, layout, own)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    new = {key: np.asarray(leaf) for key, leaf in leaves.items()}
    new |= {
        key: array.astype(leaves[key].dtype) for key, array in from_torch(arrays, layout).items()
    }
    return tuple(
        paths.replace_leaves(tree, {key: new[key] for key in paths.leaves_by_path(tree)})
        for tree in (params, stats)
    )


def head_of(layers: Sequence[LayerSpec]) -> str:
    """Returns the path of the module whose kernel is the last one used: the classifier."""
    used = [layer.path for layer in layers if layer.roles is not None]
    return used[-1].rpartition("/")[0] or used[-1]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a file; low precision comes back as float32.

    Raises:
        InputError: one line; no such file, damaged, or not a dictionary of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    arrays = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
    return {name: _plain(array) for name, array in arrays.items()}


def _plain(array: np.ndarray) -> np.ndarray:
    low = array.dtype.name in ("float16", "bfloat16")
    return array.astype(np.float32) if low else array


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError  # noqa: PLC0415 (only for such a file)
    from safetensors.numpy import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a safetensors file, or damaged: {_line(error)}") from None


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # noqa: PLC0415 (an extra)
    except ImportError:
        raise InputError(
            f"{path}: reading it needs PyTorch (pip install torch); .safetensors does not"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is unusual about the file is refused or read
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, also from damaged archives
        raise InputError(
            f"{path}: not a file of tensors alone, or damaged; nothing in it was run: "
            f"{_cause(error)}"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(
            f"{path}: a state dict, name -> tensor, is wanted; it holds {_kind(found)}"
        )
    return {str(name): _numpy(torch, tensor) for name, tensor in found.items()}


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return np.asarray((dense.float() if dense.dtype is torch.bfloat16 else dense).numpy())


def _kind(found: Any) -> str:
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    other = [f"{key!r} ({type(value).__name__})" for key, value in found.items()]
    return ", ".join(other[:3]) + (", …" if len(other) > 3 else "")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _cause(error: Exception) -> str:
    """Finds what PyTorch refused among the advice that it prints to switch the check off."""
    for line in map(str.strip, str(error).splitlines()):
        for start in ("Trying to load ", "WeightsUnpickler error: "):
            if start in line:
                return line.partition(start)[2].split(" was not an allowed global")[0]
    return _line(error).partition(". In PyTorch 2.6")[0][:200]


def _within(module: str, path: str) -> bool:
    return path == module or path.startswith(f"{module}/")


def _joined(
    found: Mapping[str, np.ndarray], layout: Sequence[Tensor], fresh: Sequence[str]
) -> dict[str, np.ndarray]:
    """Takes what the network needs from the file; counters change nothing and are left out."""
    counting = set(counters(layout))
    found = _current(found, {t.name for t in layout})
    # Whatever the file's head is called under its module, such as a bias that ours lacks.
    dropped = {name.rpartition(".")[0] for name in fresh}
    arrays = {
        name: array
        for name, array in found.items()
        if name not in counting and name.rpartition(".")[0] not in dropped
    }
    wanted = {t.name: t for t in layout if t.name not in fresh}
    _require_same_names(arrays, wanted)
    for name, tensor in wanted.items():
        _require_fits(name, arrays[name], tensor)
    return arrays


def _resized(
    found: Mapping[str, np.ndarray], layout: Sequence[Tensor], say: Callable[[str], None]
) -> Mapping[str, np.ndarray]:
    """Brings a vision transformer's positions to the network's number of them."""
    table = found.get(positions.NAME)
    wanted = next((t.shape for t in layout if t.name == positions.NAME), None)
    if table is None or wanted is None or table.ndim != 3 or table.dtype.name not in _FLOATS:
        return found
    if table.shape == wanted or table.shape[::2] != wanted[::2]:
        return found
    new = positions.resized(table, wanted[1])
    say(
        f"the positions of {table.shape[1] - 1} patches were interpolated to {wanted[1] - 1}, for "
        "images of another size"
    )
    return {**found, positions.NAME: new}


def _current(found: Mapping[str, np.ndarray], known: Set[str]) -> dict[str, np.ndarray]:
    """Gives tensors of older files today's names, and leaves auxiliary heads out.

    Names that the network itself has, or would have twice, stay.
    """
    new: dict[str, np.ndarray] = {}
    for name, array in found.items():
        today = name
        for pattern, replacement in _RENAMED:
            today = re.sub(pattern, replacement, today)
        if name not in known and today in known and today not in found:
            new[today] = array
        elif name in known or not re.search(_AUXILIARY, name):
            new[name] = array
    return new


def _require_same_names(arrays: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in arrays]
    extra = [name for name in arrays if name not in wanted]
    faults = [f"lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    faults += [f"has an unexpected {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if faults:
        raise InputError(f"a state dict of another network: it {' and '.join(faults)}")


def _require_fits(name: str, array: np.ndarray, tensor: Tensor) -> None:
    if array.shape != tensor.shape:
        hint = (
            "if only the number of classes differs, init_head = False starts with a fresh last "
            "layer"
            if tensor.axes is not None or len(tensor.shape) == 1
            else "a table of positions or tokens has the size that it was trained with"
        )
        raise InputError(
            f"{name!r} is {array.shape} in the file, {tensor.shape} in the network "
            f"({tensor.path}); {hint}"
        )
    if array.dtype.name not in _FLOATS:
        raise InputError(f"{name!r} is {array.dtype}; allowed are {', '.join(_FLOATS)}")

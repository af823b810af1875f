"""Weights of a PyTorch network from a file, into ours.

Names are joined by rule (`layouts`); whatever is missing, too much or of another shape is refused
by name. Files are taken as people have them, where they then fit exactly, and what was taken off
is said: the keys of a checkpoint, prefixes of wrappers, names of older versions of torchvision,
auxiliary heads that the network does without, second names of a tied tensor.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, counted
from domino_jax.pytorch import exported, joining, torch_file
from domino_jax.pytorch.layouts import Names, Tensor, from_torch, plain_tensors, tensors, torch_name

SUFFIXES = torch_file.SUFFIXES


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Says whether a path is named like a file of PyTorch and is no folder."""
    return str(path).endswith(SUFFIXES) and not Path(path).is_dir()


def _silent(line: str) -> None:
    del line


def restore(
    path: str | os.PathLike[str],
    params: Any,
    stats: Any,
    layers: Sequence[LayerSpec],
    *,
    fresh: str | None = None,
    names: Names = torch_name,
    say: Callable[[str], None] = _silent,
) -> tuple[Any, Any]:
    """Reads a file of PyTorch into the network.

    Args:
        path: a .safetensors file (PyTorch is not needed), or a pickle of tensors alone.
        params: pytree of arrays of the network.
        stats: the same of its running statistics.
        layers: of the network, made with any rules.
        fresh: a module, such as 'fc', that keeps its values here; the file's are not looked at.
        names: path -> name.
        say: takes the line that tells what was taken off, if anything was.

    Returns:
        params and stats, numpy arrays.

    Raises:
        InputError: one line; the file cannot be read, holds something else than tensors, or does
            not fit the network.
    """
    path = Path(path)
    sets = torch_file.read(path)
    layouts, reason = _layouts(path, params, stats, layers, names)
    try:
        taken = joining.choose(path, sets, layouts, fresh, say)
    except InputError:
        if reason:
            raise InputError(f"{path}: {reason}") from None
        raise
    doubles = [name for name, tensor in taken.arrays.items() if "float64" in str(tensor.dtype)]
    if doubles:
        say(f"{path}: rounded {len(doubles)} float64 tensors to float32 ({doubles[0]}, …)")
    leaves = paths.leaves_by_path(params) | paths.leaves_by_path(stats)
    arrays = {
        name: torch_file.rounded(path, name, torch_file.as_array(path, name, tensor), np.float32)
        for name, tensor in taken.arrays.items()
    }
    new = {key: np.asarray(leaf) for key, leaf in leaves.items()}
    new |= {
        key: np.array(torch_file.rounded(path, key, array, leaves[key].dtype))
        for key, array in from_torch(arrays, taken.layout).items()
    }
    return tuple(
        paths.replace_leaves(tree, {key: new[key] for key in paths.leaves_by_path(tree)})
        for tree in (params, stats)
    )


def _layouts(
    path: Path, params: Any, stats: Any, layers: Sequence[LayerSpec], names: Names
) -> tuple[list[tuple[Tensor, ...]], str]:
    """Lists the layouts that a file can have: PyTorch's, and ours, as our exports may.

    Returns:
        The layouts, and why PyTorch's is not among them, if it has none for this network.
    """
    plain = plain_tensors(params, stats, layers)
    if exported.names_beside(path) == "jax":
        return [plain], ""
    try:
        return [tensors(params, stats, layers, names), plain], ""
    except InputError as error:
        return [plain], str(error)


def head_of(layers: Sequence[LayerSpec]) -> str:
    """Returns the path of the module whose kernel is the last one used: the classifier."""
    used = [layer.path for layer in counted(layers)]
    return used[-1].rpartition("/")[0] or used[-1]

"""Checkpoints that Orbax wrote without us, as a start for a network.

Read are what `StandardCheckpointer` and `PyTreeCheckpointer` wrote, and the last step of a
`CheckpointManager`, whatever its steps and items are called. Parameters lie under 'params' or at
the top, batch statistics under 'batch_stats' or 'stats'.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from domino_jax.core.paths import path_of
from domino_jax.run import orbax_files
from domino_jax.run.manifest import Saved, Spec

TREE = "_METADATA"  # in a folder that holds a pytree
STEP = "_CHECKPOINT_METADATA"  # in a folder that holds items
_PARTS = {"params": "params", "stats": "stats", "batch_stats": "stats"}  # theirs -> ours
_VALUE = "/value"  # the end of a path of an nnx.State


def find(path: Path) -> Saved | None:
    """Finds a checkpoint that Orbax wrote, its leaves by our paths; None if there is none.

    A step of ours that lost its manifest is none: nothing says whether its arrays are whole.

    Raises:
        InputError: one line; there is one, but Orbax cannot read it.
    """
    items = _items(path) or _items(_last_step(path))
    if not items:
        return None
    trees = {name: orbax_files.metadata(folder) for name, folder in items.items()}
    if any(map(_is_ours, trees.values())):
        return None
    leaves = {
        (name, path_of(keys)): Spec(str(leaf.dtype), tuple(leaf.shape))
        for name, tree in trees.items()
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")
    }
    ours = _our_paths(leaves)

    def read(our_paths: Iterable[str]) -> dict[str, np.ndarray]:
        theirs = {ours[path]: path for path in our_paths}
        arrays: dict[str, np.ndarray] = {}
        for name, tree in trees.items():
            arrays |= _read(
                items[name], tree, {p: to for (n, p), to in theirs.items() if n == name}
            )
        return arrays

    return Saved(path, {path: leaves[theirs] for path, theirs in ours.items()}, read)


def _is_ours(tree: Any) -> bool:
    """Says whether `checkpoint.save` wrote a pytree: a flat dictionary of whole paths."""
    return (
        isinstance(tree, Mapping)
        and any(str(key).startswith("params/") for key in tree)
        and all(hasattr(leaf, "shape") for leaf in tree.values())
    )


def _items(folder: Path | None) -> dict[str, Path]:
    """Returns the folders of pytrees by name; a single one that is no part of ours is named ''."""
    if folder is None or not folder.is_dir():
        return {}
    if (folder / TREE).is_file():
        return {"": folder}
    folder_by_name = {sub.name: sub for sub in sorted(folder.iterdir()) if (sub / TREE).is_file()}
    if not (folder / STEP).is_file():
        return {}
    if len(folder_by_name) == 1 and not folder_by_name.keys() & _PARTS.keys():
        return {"": next(iter(folder_by_name.values()))}
    return folder_by_name


def _last_step(path: Path) -> Path | None:
    numbered = {
        int(match[0]): sub
        for sub in (path.iterdir() if path.is_dir() else ())
        if (match := re.search(r"\d+$", sub.name)) and (sub / STEP).is_file()
    }
    return numbered[max(numbered)] if numbered else None


def _our_paths(leaves: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Returns our path -> (item, path in it) of parameters and statistics."""
    full = {"/".join(filter(None, key)): key for key in leaves}
    parts: dict[str, dict[str, tuple[str, str]]] = {"params": {}, "stats": {}, "": {}}
    for path, key in full.items():
        part, _, rest = path.partition("/")
        name = _PARTS.get(part, "") if rest else ""
        parts[name][rest if name else path] = key
    top = parts.pop("")
    parts["params"] = parts["params"] or top
    return {
        f"{name}/{path}": key
        for name, part in parts.items()
        for path, key in _without_value(part).items()
    }


def _without_value(part: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    if not all(path.endswith(_VALUE) for path in part):
        return part
    return {path.removesuffix(_VALUE): key for path, key in part.items()}


def _read(folder: Path, tree: Any, name_by_path: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Reads the leaves at some paths and returns them by their new names."""
    if not name_by_path:
        return {}

    def marked(keys: Any, leaf: Any) -> Any:
        return 0 if path_of(keys) in name_by_path else ...

    arrays = orbax_files.read_tree(folder, jax.tree_util.tree_map_with_path(marked, tree))
    flat, _ = jax.tree_util.tree_flatten_with_path(arrays)
    return {
        name_by_path[path_of(keys)]: leaf for keys, leaf in flat if path_of(keys) in name_by_path
    }

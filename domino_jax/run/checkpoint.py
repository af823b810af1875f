"""Checkpoints: a folder of steps, each a pytree of arrays that Orbax wrote.

    folder/300/leaves.json     dtype and shape of every leaf by path; size and CRC-32 of every file
    folder/300/…               Orbax's files: a flat dictionary {path: array}

A step is written beside its place and renamed when whole, so a killed process leaves a whole
checkpoint or none that counts. Leaves are found by path (`named.path_of`), so the containers of
the template decide whether a NamedTuple or a dictionary comes back. Orbax casts and reshapes
silently and does not notice flipped bits: paths, dtypes, shapes and files are compared here.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from domino_jax.core import paths as named
from domino_jax.core.errors import InputError

_MANIFEST = "leaves.json"
_FORMAT = 1
_LEFTOVER = re.compile(r"\d+\.(new|old)(\.orbax-checkpoint-tmp.*)?")


class _Spec(NamedTuple):
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(size) for size in self.shape)}]"


class _Manifest(NamedTuple):
    leaves: dict[str, _Spec]
    files: dict[str, list[int]]  # path in the step's folder -> [bytes, CRC-32]


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Lists the saved steps of a folder, increasing; none where the folder does not exist."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def latest(folder: str | os.PathLike[str]) -> int | None:
    """Returns the last saved step of a folder, None where there is none."""
    return max(steps(folder), default=None)


def tidy(folder: str | os.PathLike[str]) -> None:
    """Removes what a killed process left half-written or half-removed; no step is lost."""
    folder = Path(folder)
    found = list(folder.iterdir()) if folder.is_dir() else []
    _remove(*(path for path in found if _LEFTOVER.fullmatch(path.name)))


def forget(folder: str | os.PathLike[str]) -> None:
    """Removes all steps that `save` wrote into a folder; other files and folders stay."""
    folder = Path(folder)
    tidy(folder)
    for step in steps(folder):
        if (folder / str(step) / _MANIFEST).is_file():
            _remove_step(folder, step)


def save(folder: str | os.PathLike[str], step: int, tree: Any, *, keep: int = 3) -> None:
    """Saves a pytree as one step and removes all but the last `keep` steps.

    Returns when the step is on disk. With several processes each calls it with the same
    arguments, on a folder that all of them see.

    Args:
        folder: of the steps; made if missing. One run at a time writes to it.
        step: at least 0 and not before the last one; the same step again is replaced.
        tree: leaves are JAX or numpy arrays of numbers or bools, or Python numbers (saved as
            int64, float64 or bool). Not typed PRNG keys.
        keep: how many steps stay, at least 1.

    Raises:
        InputError: a leaf that cannot be saved, two leaves of one path, an empty tree, a later
            step is there, or keep or step out of range.
    """
    folder = Path(folder).absolute()
    if keep < 1 or step < 0:
        raise InputError(f"keep must be at least 1 and step at least 0, got {keep} and {step}")
    last = latest(folder)
    if last is not None and last > step:
        raise InputError(f"{folder}: step {step} cannot be saved after step {last}")
    leaves = _leaves(tree)
    specs = {path: _spec(path, leaf) for path, leaf in leaves.items()}
    full = {path: leaf for path, leaf in leaves.items() if 0 not in specs[path].shape}
    if not full:
        raise InputError(f"{folder}: there is nothing to save in an empty tree")
    whole = folder / f"{step}.new"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
    _write(whole, _to_host(full))
    if jax.process_index() == 0:
        _write_manifest(whole, specs)
        _commit(whole, folder / str(step))
        for old in steps(folder)[:-keep]:
            _remove_step(folder, old)
    multihost_utils.sync_global_devices(f"domino_jax checkpoint {step}")


def restore(folder: str | os.PathLike[str], template: Any, step: int | None = None) -> Any:
    """Restores a pytree, bit for bit.

    Args:
        folder: of the steps.
        template: gives containers, paths, dtypes and shapes, and what each leaf comes back as:
            a numpy array or scalar, a Python number, or a JAX array with the sharding of the
            template's array or `jax.ShapeDtypeStruct` (the default device where it has none).
        step: the last one if None.

    Raises:
        InputError: one line; there is no such step, it is no checkpoint or is damaged, or the
            first path that the checkpoint lacks, has too many or with another dtype or shape.
    """
    folder = Path(folder).absolute()
    found = steps(folder)
    if not found:
        raise InputError(f"{folder}: there is no checkpoint in this folder")
    if step is not None and step not in found:
        raise InputError(f"{folder}: there is no step {step}, only {_some(found)}")
    chosen = folder / str(found[-1] if step is None else step)
    return _restore(chosen, template, _read_manifest(chosen))


def restore_parts(path: str | os.PathLike[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Restores some top-level parts of a checkpoint, such as params and stats, and no others.

    Args:
        path: a folder of steps, of which the last is read, or the folder of one step.
        template: part to its template, as for `restore`. Within a part nothing is left out.

    Raises:
        InputError: as `restore`.
    """
    chosen, manifest = _parts(path, template)
    return dict(_restore(chosen, dict(template), manifest))


def require_fits(path: str | os.PathLike[str], template: Mapping[str, Any]) -> None:
    """Refuses what `restore_parts` would refuse, without reading the arrays.

    Raises:
        InputError: as `restore`, but for damaged arrays.
    """
    chosen, manifest = _parts(path, template)
    specs = {leaf: _spec(leaf, like) for leaf, like in _leaves(dict(template)).items()}
    _require_same(chosen, manifest.leaves, specs)


def _parts(path: str | os.PathLike[str], template: Mapping[str, Any]) -> tuple[Path, _Manifest]:
    """Chooses the last step; of its leaves those within the parts of the template."""
    path = Path(path).absolute()
    last = latest(path)
    chosen = path if last is None else path / str(last)
    manifest = _read_manifest(chosen)
    parts = {leaf: spec for leaf, spec in manifest.leaves.items() if leaf.split("/")[0] in template}
    return chosen, manifest._replace(leaves=parts)


def _leaves(tree: Any) -> dict[str, Any]:
    leaves = named.leaves_by_path(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise InputError("two leaves of the tree have the same path, such as keys 1 and '1'")
    return leaves


def _spec(path: str, leaf: Any) -> _Spec:
    """Reads dtype and shape of an array, a `jax.ShapeDtypeStruct` or a Python number."""
    array = np.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf
    dtype = getattr(array, "dtype", None)
    numeric = dtype is not None and jax.dtypes.issubdtype(dtype, np.number)
    if not numeric and dtype != np.bool_:
        what = type(leaf).__name__ if dtype is None else dtype
        raise InputError(f"leaf {path!r}: checkpoints hold arrays of numbers or bools, not {what}")
    return _Spec(str(dtype), tuple(array.shape))


def _to_host(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Copies to numpy all that one process sees whole: Orbax saves numpy twice as fast."""

    def local(leaf: Any) -> bool:
        if not isinstance(leaf, jax.Array):
            return True
        return leaf.is_fully_addressable or leaf.is_fully_replicated

    host = jax.device_get({path: leaf for path, leaf in leaves.items() if local(leaf)})
    return {path: np.asarray(host[path]) if path in host else leaves[path] for path in leaves}


def _checkpointer() -> Any:
    # Imported here: Orbax takes 0.35 s, which `--help` need not pay.
    import orbax.checkpoint as ocp  # noqa: PLC0415

    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _write(folder: Path, leaves: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp  # noqa: PLC0415

    with _checkpointer() as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(leaves))


def _write_manifest(folder: Path, specs: Mapping[str, _Spec]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): _size_and_sum(path) for path in files}
    document = {"format": _FORMAT, "leaves": specs, "files": sums}
    (folder / _MANIFEST).write_text(json.dumps(document), encoding="utf-8")


def _size_and_sum(path: Path) -> list[int]:
    size = total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size += len(block)
            total = zlib.crc32(block, total)
    return [size, total]


def _commit(whole: Path, place: Path) -> None:
    old = place.with_name(f"{place.name}.old")
    if place.exists():
        place.rename(old)
    whole.rename(place)
    _remove(old)


def _remove_step(folder: Path, step: int) -> None:
    # Renamed first: half of a removed step must not count as a step.
    _remove((folder / str(step)).rename(folder / f"{step}.old"))


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _read_manifest(folder: Path) -> _Manifest:
    """Reads what a step holds.

    Raises:
        InputError: the folder is not a checkpoint of this program.
    """
    try:
        document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise InputError(f"format {document['format']!r} is unknown, expected {_FORMAT}")
        specs = {
            path: _Spec(dtype, tuple(shape)) for path, (dtype, shape) in document["leaves"].items()
        }
        return _Manifest(specs, dict(document["files"]))
    except OSError as error:
        reason = f"{_MANIFEST}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{_MANIFEST}: {error}"
    raise InputError(f"{folder}: not a checkpoint of this program, or a damaged one ({reason})")


def _restore(folder: Path, template: Any, manifest: _Manifest) -> Any:
    leaves = _leaves(template)
    specs = {path: _spec(path, leaf) for path, leaf in leaves.items()}
    _require_same(folder, manifest.leaves, specs)
    _require_whole(folder, manifest.files)
    full = [path for path, spec in specs.items() if 0 not in spec.shape]
    host = _read(folder, full) if full else {}
    for path, spec in specs.items():
        host.setdefault(path, np.empty(spec.shape, spec.dtype))
        if _spec(path, host[path]) != spec:
            raise InputError(f"{folder}: damaged checkpoint: {path!r} is not {spec}")
    placed = [_place(path, leaf, host[path]) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), placed)


def _require_same(folder: Path, saved: Mapping[str, _Spec], expected: Mapping[str, _Spec]) -> None:
    missing = [path for path in expected if path not in saved]
    extra = [path for path in saved if path not in expected]
    faults = [f"lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    faults += [f"has an unexpected {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if faults:
        raise InputError(f"{folder}: the checkpoint {' and '.join(faults)}")
    for path, spec in expected.items():
        if saved[path] != spec:
            raise InputError(f"{folder}: {path!r} is {saved[path]} here, expected {spec}")


def _require_whole(folder: Path, files: Mapping[str, list[int]]) -> None:
    # Before Orbax reads them: on damaged files it prints hundreds of lines, or nothing at all.
    for name, expected in files.items():
        try:
            found = _size_and_sum(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name}: damaged checkpoint: {error.strerror}") from None
        if found != expected:
            sums = " and ".join(
                f"{size} bytes, CRC-32 {crc:08x}" for size, crc in (expected, found)
            )
            raise InputError(f"{folder / name}: damaged checkpoint: saved and found are {sums}")


def _read(folder: Path, paths: list[str]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp  # noqa: PLC0415

    item = dict.fromkeys(paths, 0)
    as_numpy = dict.fromkeys(paths, ocp.RestoreArgs(restore_type=np.ndarray))
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    try:
        with _checkpointer() as checkpointer:
            return dict(checkpointer.restore(folder, args=args))
    except Exception as error:  # Orbax and TensorStore raise many types
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{folder}: Orbax cannot read the checkpoint: {lines[0]}") from error


def _place(path: str, like: Any, host: np.ndarray) -> Any:
    """Turns what was read into what the template's leaf is."""
    if isinstance(like, np.ndarray):
        return host
    if isinstance(like, np.generic):
        return host[()]
    if isinstance(like, bool | int | float):
        return host.item()
    # A ShapeDtypeStruct counts as committed: it has a sharding, or None.
    sharding = like.sharding if getattr(like, "committed", True) else None
    if sharding is None:
        placed = jax.device_put(host)
    else:
        placed = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    if placed.dtype != host.dtype:
        raise InputError(f"leaf {path!r}: {host.dtype} needs a numpy template or jax_enable_x64")
    return placed


def _some(found: list[int]) -> str:
    return ", ".join(str(step) for step in found[-5:])

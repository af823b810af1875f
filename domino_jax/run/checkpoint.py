"""Checkpoints: a folder of steps, each a pytree of arrays that Orbax wrote.

    folder/300/leaves.json     what the step holds (`manifest`)
    folder/300/…               Orbax's files: a flat dictionary {path: array}
    folder/300.new             a step that is being written; whole once it has its leaves.json
    folder/300.old             a step that is being replaced
    folder/300.gone            a step that is being removed

A step is written beside its place, read back, and renamed when whole, so a killed process leaves
whole checkpoints alone, and whatever was whole counts again after `tidy`. Leaves are found by path
(`paths.path_of`), so the containers of the template decide whether a NamedTuple or a dictionary
comes back.

Why not Orbax's CheckpointManager (0.12.8)? It makes folders of the same names, but
- a step that is there is not saved again: `save` returns False, or raises where it is forced. The
  last vote of a search changes the state at a step that may be saved already;
- an old step is removed file by file in its place: after a kill half a step counts as a step;
- a step counts as soon as Orbax has written it, before anything read it back;
- of 60 flipped bits in the files of a step it noticed 3, and 56 came back as other weights.
`tests/run/test_checkpoint_manager.py` shows all but the third.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from domino_jax.core.errors import InputError
from domino_jax.run import host, manifest, orbax_files, plain
from domino_jax.run.manifest import Saved, Spec

_WAITS = (0.0, 0.1, 1.0)  # seconds before each try to remove what could not be written
_MARKS = (manifest.FILE, plain.TREE, plain.STEP)  # a step has at least one of them
_LEFTOVER = re.compile(r"(\d+)\.(new|old|gone)(\.orbax-checkpoint-tmp.*)?")


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Lists the saved steps of a folder, increasing; none where the folder does not exist.

    Those that Orbax alone wrote, or that lost their manifest, are among them; folders that somebody
    else named by a number are not.
    """
    folder = Path(folder)
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(int(path.name) for path in entries if _is_step(path))


def _is_step(path: Path) -> bool:
    is_number = path.name.isdecimal() and str(int(path.name)) == path.name
    return is_number and any((path / name).exists() for name in _MARKS)


def require_steps(folder: str | os.PathLike[str]) -> None:
    """Refuses a step without its manifest: of one that is not read nobody would say so.

    Raises:
        InputError: the first one.
    """
    for path in (Path(folder) / str(step) for step in steps(folder)):
        if not (path / manifest.FILE).is_file():
            raise InputError(
                f"{path}: not a checkpoint of this program, or a damaged one (it has no "
                f"{manifest.FILE}); remove it"
            )


def latest(folder: str | os.PathLike[str]) -> int | None:
    """Returns the last saved step of a folder, None where there is none."""
    return max(steps(folder), default=None)


def tidy(folder: str | os.PathLike[str]) -> None:
    """Ends what a killed process had begun: what is whole becomes a step, the rest goes."""
    folder = Path(folder)
    entries = list(folder.iterdir()) if folder.is_dir() else []
    left = [path for path in entries if _LEFTOVER.fullmatch(path.name)]
    for name in sorted({path.name.partition(".")[0] for path in left}):
        place, new, old = folder / name, folder / f"{name}.new", folder / f"{name}.old"
        if place.exists():
            _remove(old)
        if manifest.is_whole(new):
            _commit(new, place)
        elif not place.exists() and manifest.is_whole(old):
            old.rename(place)
    _remove(*left)


def forget(folder: str | os.PathLike[str]) -> None:
    """Removes all steps that `save` wrote into a folder; other files and folders stay."""
    folder = Path(folder)
    tidy(folder)
    for step in steps(folder):
        if (folder / str(step) / manifest.FILE).is_file():
            _remove_step(folder, step)


def save(folder: str | os.PathLike[str], step: int, tree: Any, *, keep: int = 3) -> None:
    """Saves a pytree as one step and removes all but the last `keep` steps.

    Returns when the step is on disk and was read back. With several processes each calls it with
    the same arguments, on a folder that all of them see.

    Args:
        folder: of the steps; made if missing. One run at a time writes to it.
        step: at least 0 and not before the last one. The same step again is replaced, unless it
            holds the same.
        tree: leaves are JAX or numpy arrays of numbers or bools, or Python numbers (saved as
            int64, float64 or bool). Not typed PRNG keys.
        keep: how many steps stay, at least 1.

    Raises:
        InputError: a leaf that cannot be saved, two leaves of one path, an empty tree, a later
            step is there, or keep or step out of range; or the system refuses to write, and all
            earlier steps are whole.
    """
    folder = Path(folder).absolute()
    if keep < 1 or step < 0:
        raise InputError(f"keep must be at least 1 and step at least 0, got {keep} and {step}")
    leaves = manifest.leaves_of(tree)
    specs = manifest.specs_of(leaves)
    full = {path: leaf for path, leaf in leaves.items() if 0 not in specs[path].shape}
    if not full:
        raise InputError(f"{folder}: there is nothing to save in an empty tree")
    _in_one_process(step, lambda: _prepare(folder))
    last = latest(folder)
    if last is not None and last > step:
        raise InputError(f"{folder}: step {step} cannot be saved after step {last}")
    arrays = host.to_host(full)
    if last != step or not _holds(folder / str(step), specs, arrays):
        _write(folder / f"{step}.new", arrays)
        _in_one_process(step, lambda: _certify(folder, step, specs))
    _in_one_process(step, lambda: _remove_steps(folder, steps(folder)[:-keep]))


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
    saved = steps(folder)
    if not saved:
        raise InputError(f"{folder}: there is no checkpoint in this folder")
    if step is not None and step not in saved:
        some = ", ".join(str(step) for step in saved[-5:])
        raise InputError(f"{folder}: there is no step {step}, only {some}")
    step_folder = folder / str(saved[-1] if step is None else step)
    return _restore(_open(step_folder), template)


def restore_parts(path: str | os.PathLike[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Restores some top-level parts of a checkpoint, such as params and stats, and no others.

    Args:
        path: a folder of steps, of which the last is read, or the folder of one step; also a
            checkpoint that Orbax alone wrote (see `plain`).
        template: part to its template, as for `restore`. Within a part nothing is left out.

    Raises:
        InputError: as `restore`.
    """
    return dict(_restore(_parts(path, template), dict(template)))


def require_fits(path: str | os.PathLike[str], template: Mapping[str, Any]) -> None:
    """Refuses what `restore_parts` would refuse, without reading the arrays.

    Raises:
        InputError: as `restore`, but for damaged arrays.
    """
    saved = _parts(path, template)
    specs = manifest.specs_of(manifest.leaves_of(dict(template)))
    manifest.require_same(saved.folder, saved.leaves, specs)


def _parts(path: str | os.PathLike[str], template: Mapping[str, Any]) -> Saved:
    """Opens the last step; of its leaves those within the parts of the template."""
    path = Path(path).absolute()
    last = latest(path)
    step_folder = path if last is None else path / str(last)
    other = None if (step_folder / manifest.FILE).exists() else plain.find(path)
    saved = other or _open(step_folder)
    parts = {leaf: spec for leaf, spec in saved.leaves.items() if leaf.split("/")[0] in template}
    return saved._replace(leaves=parts)


def _open(folder: Path) -> Saved:
    """Opens a step that `save` wrote; its files are compared before any is read."""
    saved = manifest.read(folder)

    def read(paths: Iterable[str]) -> dict[str, np.ndarray]:
        manifest.require_whole(folder, saved.files)
        return orbax_files.read(folder, paths)

    return Saved(folder, saved.leaves, read)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    tidy(folder)


def _in_one_process(step: int, act: Callable[[], None]) -> None:
    """Acts in one of several processes, before any of them goes on."""
    if jax.process_index() == 0:
        act()
    multihost_utils.sync_global_devices(f"domino_jax checkpoint {step}")


def _everywhere(answer: bool) -> bool:
    if jax.process_count() == 1:
        return answer
    return bool(np.all(multihost_utils.process_allgather(np.array(answer))))


def _holds(place: Path, specs: Mapping[str, Spec], arrays: Mapping[str, Any]) -> bool:
    """Says whether a step is whole and holds exactly these leaves."""
    same = manifest.is_whole(place) and manifest.read(place).leaves == specs
    return _everywhere(same and _first_difference(place, arrays) is None)


def _first_difference(place: Path, arrays: Mapping[str, Any]) -> str | None:
    return host.first_difference(orbax_files.read(place, arrays), arrays)


def _write(new: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays and reads them back: only then may a manifest say that they are there."""
    try:
        orbax_files.write(new, arrays)
        path = _first_difference(new, arrays)
        if not _everywhere(path is None):
            where = repr(path) if path else "a leaf of another process"
            raise InputError(f"{new}: {where} is read back with other bits than were saved")
    except InputError:
        for seconds in _WAITS:  # Orbax's threads may still write into what is removed
            time.sleep(seconds)
            with suppress(OSError):  # what failed may fail again
                tidy(new.parent)  # a full disk needs the room
                break
        raise


def _certify(folder: Path, step: int, specs: Mapping[str, Spec]) -> None:
    new = folder / f"{step}.new"
    manifest.write(new, specs)
    _commit(new, folder / str(step))


def _commit(new: Path, place: Path) -> None:
    old = place.with_name(f"{place.name}.old")
    if os.path.lexists(place):
        if not _is_step(place):
            raise InputError(f"{place}: expected a place for a checkpoint; move away what is there")
        place.rename(old)
    new.rename(place)
    _remove(old)


def _remove_steps(folder: Path, old: list[int]) -> None:
    for step in old:
        _remove_step(folder, step)


def _remove_step(folder: Path, step: int) -> None:
    # Renamed first: half of a removed step must not count as a step.
    _remove((folder / str(step)).rename(folder / f"{step}.gone"))


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _restore(saved: Saved, template: Any) -> Any:
    leaves = manifest.leaves_of(template)
    specs = manifest.specs_of(leaves)
    manifest.require_same(saved.folder, saved.leaves, specs)
    full = [path for path, spec in specs.items() if 0 not in spec.shape]
    arrays = saved.read(full) if full else {}
    for path, spec in specs.items():
        arrays.setdefault(path, np.empty(spec.shape, spec.dtype))
        if manifest.spec_of(path, arrays[path]) != spec:
            raise InputError(f"{saved.folder}: damaged checkpoint: {path!r} is not {spec}")
    placed = [host.place(path, leaf, arrays[path]) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), placed)

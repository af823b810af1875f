"""The files of a tree, each real one once, whatever links lead to it: text, or pictures by class.

    data/train/cat/1.jpg               a file counts where it really lies
    data/train/cat/again.jpg -> 1.jpg           the same file: not counted again
    data/train/cat/fluffy    -> ../dog          lies in the class dog: left to it
    data/train/cat/up        -> ..              leads up to a folder that it lies in: not followed
    data/train/cat/more      -> /disk/cats      lies in no class: followed, its files are cats
    data/train/dog/more      -> /disk/cats      would make dogs of these cats: refused

A folder of text has no classes: all files in it count. Hidden files, those in hidden folders and
those without an extension of their kind are passed over.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from domino_jax.core.errors import InputError

# Of photographs; Pillow also knows those of documents and films.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".gif", ".bmp", ".webp", ".avif"),
    *(".tif", ".tiff", ".pcx", ".pbm", ".pgm", ".pnm", ".ppm"),
)


class Pictures(NamedTuple):
    """Files and their labels, by label and then by path."""

    paths: list[str]
    labels: list[int]


def files(folder: Path, extensions: Collection[str]) -> dict[str, Path]:
    """Lists the files of a folder and of those below: name -> path, in the order of names.

    Args:
        folder: where there is none, there are no files.
        extensions: in small letters, with their dots.

    Returns:
        The name is the path within the folder, of a link to a file that lies in it too that of
        this file.
    """
    top, real_top = str(folder), os.path.realpath(folder)
    path_by_real: dict[str, str] = {}
    for path, real in _walk(top, "", set(), extensions):
        path_by_real.setdefault(real, path)
    found = {}
    for real, path in path_by_real.items():
        inside = Path(real).is_relative_to(real_top)
        name = Path(real).relative_to(real_top) if inside else Path(path).relative_to(top)
        found[name] = Path(path)
    return {name.as_posix(): found[name] for name in sorted(found)}


def class_names(folder: Path) -> list[str]:
    """Lists the classes: the folders in a folder, sorted by name.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it holds a folder of images for every class")
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path.name)
    )


def pictures(splits: Sequence[Path], names: Sequence[str]) -> list[Pictures]:
    """Lists the pictures of each split.

    Args:
        splits: folders of class folders.
        names: the classes; their places are the labels. A split may lack some.

    Raises:
        InputError: a split without pictures, or a file outside of the classes that links make a
            member of two.
    """
    owners: dict[str, set[tuple[int, int]]] = {}  # real class folder -> (split, label)
    for split, folder in enumerate(splits):
        for label, name in enumerate(names):
            real = os.path.realpath(folder / name)
            owners.setdefault(real, set()).add((split, label))
    return [_of_split(split, folder, names, owners) for split, folder in enumerate(splits)]


def _of_split(
    split: int, folder: Path, names: Sequence[str], owners: Mapping[str, set[tuple[int, int]]]
) -> Pictures:
    split_pictures = Pictures([], [])
    owner_by_file: dict[str, tuple[int, str]] = {}  # real file -> label and path
    for label, name in enumerate(names):
        kept = []
        for path, real in _walk(str(folder / name), os.path.realpath(folder), set(), EXTENSIONS):
            owner = _owner(real, owners)
            if owner is not None and (split, label) not in owner:
                continue
            before, first = owner_by_file.setdefault(real, (label, path))
            if before != label:
                raise InputError(
                    f"{path} and {first} are links to one file, {real}, of two classes: "
                    f"{names[before]} and {name}; remove one of the links"
                )
            if first == path:
                kept.append(path)
        kept.sort(key=Path)
        split_pictures.paths.extend(kept)
        split_pictures.labels.extend([label] * len(kept))
    if not split_pictures.paths:
        raise InputError(f"{folder}: no images in the folders of its classes")
    return split_pictures


def _owner(real: str, owners: Mapping[str, set[tuple[int, int]]]) -> set[tuple[int, int]] | None:
    """Returns the classes in whose folder a real file lies; None: it lies in no class."""
    above = os.path.dirname(real)  # noqa: PTH120 (a million times)
    while above not in owners:
        if above == (above := os.path.dirname(above)):  # noqa: PTH120
            return None
    return owners[above]


def _walk(
    folder: str, parent: str, seen: set[str], extensions: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yields (path, real path) of the files below a folder, real ones before links.

    Args:
        folder: whose real path is asked for only here: `realpath` looks at each folder above.
        parent: the real path of the folder in which it lies; '' for the top.
        seen: real folders that were walked: a cycle of links ends.
        extensions: of the files.
    """
    real = os.path.realpath(folder)
    leads_up = parent == real or parent.startswith(real.rstrip(os.sep) + os.sep)
    if leads_up or real in seen or not os.path.isdir(folder):  # noqa: PTH112
        return
    seen.add(real)
    with os.scandir(folder) as scan:
        entries = sorted(
            (entry for entry in scan if not _hidden(entry.name)),
            key=lambda entry: (entry.is_symlink(), entry.name),
        )
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(entry.path, real, seen, extensions)
        elif Path(entry.name).suffix.lower() in extensions and _is_file(entry):
            inside = os.path.join(real, entry.name)  # noqa: PTH118
            yield entry.path, os.path.realpath(entry.path) if entry.is_symlink() else inside


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Says whether it is a file, or a link to nothing, which whoever reads it names.

    The target of such a link may be on a disk that is not there; a link to itself has none.
    """
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:
        return False


def _hidden(name: str) -> bool:
    return name.startswith(".")

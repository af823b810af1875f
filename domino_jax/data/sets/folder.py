"""Images of one's own: a folder with a folder of images for each class.

    data.dir/train/cat/1.jpg          any name, any depth below the class
    data.dir/test/cat/7.png           or val/ or validation/ instead of test/

The classes are the folders of train/, sorted by name.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec
from domino_jax.data.encoded import Example, from_encoded, require_sizes
from domino_jax.data.options import require_whole

_TESTS = ("test", "val", "validation")
# Of photographs; Pillow also knows those of documents and films.
_IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".gif", ".bmp", ".webp", ".avif"),
    *(".tif", ".tiff", ".pcx", ".pbm", ".pgm", ".pnm", ".ppm"),
)


def create(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 0) -> Data:
    """Opens a folder of class folders; images are read when they are asked for.

    Files whose extension is of no common image format, hidden ones and those in hidden folders are
    passed over; links are followed.

    Args:
        data_dir: the folder.
        workers: processes that read ahead, best as many as there are cores to spare.
        size: S, pixels of a side.
        short: pixels of the shorter side, of which evaluation cuts the middle [S, S]; 0: 8/7 of S,
            256 for 224.

    Returns:
        Inputs are float32 [B, S, S, 3], transformed as those of ImageNet.

    Raises:
        InputError: a folder that is wanted is missing or has no images, fewer than two classes, a
            class that has no images to train, one to test that is not trained, or `size` or `short`
            is out of range.
    """
    require_whole("short", short, 0)
    require_whole("size", size, 1)
    short = short or round(size * 256 / 224)
    require_sizes(size, short)
    root = Path(data_dir)
    if not data_dir or not root.is_dir():
        raise InputError(
            f"data set 'folder': set data.dir to a folder with train/ and test/ (or val/), each "
            f"with a folder of images for every class; got {data_dir!r}"
        )
    names = _classes(root / "train")
    if len(names) < 2:
        held = ", ".join(names) or "none"
        raise InputError(f"{root / 'train'}: a folder for each of two or more classes, got {held}")
    found = [root / name for name in _TESTS if (root / name).is_dir()]
    if len(found) != 1:
        held = ", ".join(f"{path.name}/" for path in found) or "none"
        raise InputError(f"{root}: one of test/, val/ and validation/ is wanted, got {held}")
    for name in _classes(found[0]):
        if name not in names:
            held = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise InputError(f"{found[0] / name}: no such class in {root / 'train'}: {held}")
    train, test = (_Files(*_files(part, names)) for part in (root / "train", found[0]))
    _require_all_trained(root / "train", names, train.labels)
    return from_encoded(
        train,
        test,
        classes=len(names),
        size=size,
        short=short,
        workers=workers,
        fingerprint=_fingerprint(names, {"train": train, "test": test}, root),
    )


def spec(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 0) -> Spec:
    """Describes a folder, which must be there; no image is read. Arguments as for `create`."""
    data = create(data_dir=data_dir, workers=workers, size=size, short=short)
    label = jax.ShapeDtypeStruct((1,), np.int32)
    return Spec(data.example, label, data.classes, data.train_size, data.test_size)


@dataclass(frozen=True)
class _Files:
    """Examples in files."""

    paths: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return {"image": Path(path).read_bytes(), "label": self.labels[index], "name": path}


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it holds a folder of images for every class")
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and _shown(Path(path.name))
    )


def _files(folder: Path, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Lists the images of the classes, sorted by path, and their labels."""
    paths, labels = [], []
    for label, name in enumerate(names):
        inside = (
            Path(parent, file)
            for parent, _, files in os.walk(folder / name, followlinks=True)
            for file in files
        )
        shown = (path for path in inside if _shown(path.relative_to(folder / name)))
        images = sorted(p for p in shown if p.suffix.lower() in _IMAGES and p.is_file())
        paths += [str(path) for path in images]
        labels += [label] * len(images)
    if not paths:
        raise InputError(f"{folder}: no images in the folders of its classes")
    return paths, labels


def _require_all_trained(folder: Path, names: Sequence[str], labels: Sequence[int]) -> None:
    present = set(labels)
    empty = [name for label, name in enumerate(names) if label not in present]
    if empty:
        raise InputError(f"{folder / empty[0]}: a class without images; add some or remove it")


def _fingerprint(names: Sequence[str], splits: Mapping[str, _Files], root: Path) -> str:
    """Returns 16 hexadecimal digits that depend on classes, names and sizes of files."""
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    for split, files in splits.items():
        digest.update(f"\n{split}".encode())
        for path in files.paths:
            # The test folder may be renamed.
            inside = "/".join(Path(path).relative_to(root).parts[1:])
            told = f"\n{inside} {Path(path).stat().st_size}"
            digest.update(told.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _shown(path: Path) -> bool:
    """Says whether neither a relative path nor a folder on the way is hidden."""
    return not any(part.startswith(".") for part in path.parts)

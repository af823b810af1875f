"""Images of one's own: a folder with a folder of images for each class.

    data.dir/train/cat/1.jpg          any name, any depth below the class
    data.dir/test/cat/7.png           what is reported

The classes are the folders of train/, sorted by name. Where there is no test/, val/ (or valid/, or
validation/) takes its place; beside test/ it is left alone: nothing of a run looks at it.
`data/tree.py` draws what a link counts as.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec
from domino_jax.data.check import broken
from domino_jax.data.encoded import Example, from_encoded, require_sizes
from domino_jax.data.options import require_whole
from domino_jax.data.tree import class_names, pictures

_TEST = "test"
_VALIDATIONS = ("val", "valid", "validation")


def create(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 0) -> Data:
    """Opens a folder of class folders; images are read when they are asked for.

    Files whose extension is of no common image format, hidden ones and those in hidden folders are
    passed over; links are followed, and each real file counts once.

    Args:
        data_dir: the folder.
        workers: processes that read ahead, best as many as there are cores to spare.
        size: S, pixels of a side.
        short: pixels of the shorter side, of which evaluation cuts the middle [S, S]; 0: 8/7 of S,
            256 for 224.

    Returns:
        Inputs are float32 [B, S, S, 3], transformed as those of ImageNet.

    Raises:
        InputError: a folder is missing or has no images, there are fewer than two classes, a class
            has no images to train, one to test is not trained, or `size` or `short` is out of
            range.
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
    names = class_names(root / "train")
    if len(names) < 2:
        held = ", ".join(names) or "none"
        raise InputError(f"{root / 'train'}: a folder for each of two or more classes, got {held}")
    tested = _tested(root)
    for name in class_names(tested):
        if name not in names:
            held = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise InputError(f"{tested / name}: no such class in {root / 'train'}: {held}")
    train, test = pictures([root / "train", tested], names)
    _require_all_trained(root / "train", names, train.labels)
    paths = {"train": train.paths, "test": test.paths}
    return from_encoded(
        _Files(*train),
        _Files(*test),
        classes=len(names),
        size=size,
        short=short,
        workers=workers,
        fingerprint=_fingerprint(names, paths, root),
    )._replace(files=partial(_sizes, paths, root), check=partial(broken, _named(paths, root)))


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
        try:
            image = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        return {"image": image, "label": self.labels[index], "name": path}


def _tested(root: Path) -> Path:
    """Returns the folder that is reported: test/, or the only one for validation."""
    if (root / _TEST).is_dir():
        return root / _TEST
    folders = [root / name for name in _VALIDATIONS if (root / name).is_dir()]
    if len(folders) != 1:
        held = ", ".join(f"{path.name}/" for path in folders) or "none"
        raise InputError(
            f"{root}: expected test/, or else one of val/, valid/ and validation/, got {held}"
        )
    return folders[0]


def _require_all_trained(folder: Path, names: Sequence[str], labels: Sequence[int]) -> None:
    present = set(labels)
    empty = [name for label, name in enumerate(names) if label not in present]
    if empty:
        raise InputError(f"{folder / empty[0]}: a class without images; add some or remove it")


def _named(paths: Mapping[str, Sequence[str]], root: Path) -> dict[str, str]:
    """Returns name -> path; the names are those of train/ and test/, also where test/ is val/."""
    return {
        "/".join((split, *Path(path).relative_to(root).parts[1:])): path
        for split, inside in paths.items()
        for path in inside
    }


def _sizes(paths: Mapping[str, Sequence[str]], root: Path) -> dict[str, int]:
    return {name: _size(path) for name, path in _named(paths, root).items()}


def _size(path: str) -> int:
    """Returns the bytes of a file; 0 for a link to nothing."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _fingerprint(names: Sequence[str], paths: Mapping[str, Sequence[str]], root: Path) -> str:
    """Returns 16 hexadecimal digits that depend on classes, names and sizes of files."""
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    for split, inside in paths.items():
        digest.update(f"\n{split}".encode())
        for path in inside:
            # The test folder may be renamed.
            name = "/".join(Path(path).relative_to(root).parts[1:])
            digest.update(f"\n{name} {_size(path)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]

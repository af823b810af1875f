"""Images of one's own: a folder with a folder of images for each class.

    data.dir/train/cat/1.jpg          any name, any depth below the class
    data.dir/test/cat/7.png           or val/ or validation/ instead of test/

The classes are the folders of train/, sorted by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from domino_jax.data import Data, Spec
from domino_jax.data.encoded import Example, from_encoded
from domino_jax.named import require_known

_TESTS = ("test", "val", "validation")


def create(*, data_dir: str = "", workers: int = 0, size: int = 224, short: int = 0) -> Data:
    """Opens a folder of class folders; images are read when they are asked for.

    Files whose extension Pillow does not know and hidden ones are passed over.

    Args:
        data_dir: the folder.
        workers: processes that read ahead, best as many as there are cores to spare.
        size: S, pixels of a side.
        short: pixels of the shorter side, of which evaluation cuts the middle [S, S]; 0: 8/7 of S,
            256 for 224.

    Returns:
        Inputs are float32 [B, S, S, 3], transformed as those of ImageNet.

    Raises:
        ValueError: a folder that is wanted is missing or has no images, a class to test that is
            not trained, or `size` or `short` is out of range.
    """
    root = Path(data_dir)
    if not data_dir or not root.is_dir():
        raise ValueError(
            f"data set 'folder': set data.dir to a folder with train/ and test/ (or val/), each "
            f"with a folder of images for every class; got {data_dir!r}"
        )
    names = _classes(root / "train")
    found = [root / name for name in _TESTS if (root / name).is_dir()]
    if len(found) != 1:
        held = ", ".join(f"{path.name}/" for path in found) or "none"
        raise ValueError(f"{root}: one of test/, val/ and validation/ is wanted, got {held}")
    require_known(_classes(found[0]), names, what=f"class of {root / 'train'}")
    train, test = (_Files(*_files(part, names)) for part in (root / "train", found[0]))
    short = short or round(size * 256 / 224)
    return from_encoded(train, test, classes=len(names), size=size, short=short, workers=workers)


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
        raise ValueError(f"{folder}: no such folder; it holds a folder of images for every class")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _shown(path))


def _files(folder: Path, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Lists the images of the classes, sorted by path, and their labels."""
    known = frozenset(Image.registered_extensions())
    paths, labels = [], []
    for label, name in enumerate(names):
        inside = sorted((folder / name).rglob("*")) if (folder / name).is_dir() else []
        images = [p for p in inside if p.suffix.lower() in known and _shown(p) and p.is_file()]
        paths += [str(path) for path in images]
        labels += [label] * len(images)
    if not paths:
        raise ValueError(f"{folder}: no images in the folders of its classes")
    return paths, labels


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")

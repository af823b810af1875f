"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 gray, 10 classes.

Xiao, Rasul and Vollgraf 2017, MIT license. It is read from TFDS where it is prepared there, else
from the four files of its publication, which the Debian package `dataset-fashion-mnist` has too:

    train-images-idx3-ubyte.gz    train-labels-idx1-ubyte.gz
    t10k-images-idx3-ubyte.gz     t10k-labels-idx1-ubyte.gz

Such a file is, compressed, 00 00 08 <number of axes>, the length of each axis as four bytes, and
the values as one byte each. The 55 MB are read into memory.
"""

import gzip
import hashlib
import math
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec
from domino_jax.data.augment import flip, pad_crop
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.options import require_flag
from domino_jax.data.pipeline import Batch
from domino_jax.data.prepared import open_split, require_prepared, stock

DEBIAN = "/usr/share/datasets/fashion-mnist"
_FILES = {"train": "train", "test": "t10k"}
_SIDE = 28
_CLASSES = 10
_MEAN, _STD = np.float32(0.2860), np.float32(0.3530)  # of the training pixels in 0 to 1
_EXAMPLE = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 1), np.float32)


def create(
    *, data_dir: str = "", workers: int = 0, augment: bool = True, idx: str = DEBIAN
) -> Data:
    """Opens Fashion-MNIST.

    Args:
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: not used; threads serve arrays in memory.
        augment: move a training image by up to one pixel each way, mirror half of them.
        idx: folder of the four files, for where TFDS has none.

    Returns:
        Inputs are float32 [B, 28, 28, 1] of about zero mean and unit variance, labels 0 to 9.

    Raises:
        InputError: an option is of the wrong kind, neither source has the data, or a file is
            damaged.
    """
    del workers
    _require_options(augment, idx)
    train, test = _read(data_dir, Path(idx))
    return Data(
        train=partial(
            train_arrays, train, augment=_augment if augment else None, finish=_normalize
        ),
        evaluate=partial(evaluate_arrays, test, finish=_normalize),
        example=_EXAMPLE,
        classes=_CLASSES,
        train_size=len(train["labels"]),
        test_size=len(test["labels"]),
        fingerprint=_fingerprint(train, test),
    )


def spec(*, data_dir: str = "", workers: int = 0, augment: bool = True, idx: str = DEBIAN) -> Spec:
    """Describes Fashion-MNIST; nothing is read. Arguments as for `create`."""
    del data_dir, workers
    _require_options(augment, idx)
    return Spec(_EXAMPLE, jax.ShapeDtypeStruct((1,), np.int32), _CLASSES, 60_000, 10_000)


def _require_options(augment: bool, idx: str) -> None:
    require_flag("augment", augment)
    if not isinstance(idx, str):
        raise InputError(f"idx: expected a folder, got {idx!r}")


def _read(data_dir: str, idx: Path) -> tuple[Batch, Batch]:
    """Returns train and test: 'inputs' uint8 [N, 28, 28, 1], 'labels' int32 [N]."""
    builder = stock("fashion_mnist", data_dir)
    if not builder.info.splits and idx.is_dir():
        return _of_idx(idx, "train"), _of_idx(idx, "test")
    try:
        require_prepared(builder)
    except InputError as error:
        raise InputError(
            f"{error}; or, without TensorFlow: apt-get install dataset-fashion-mnist, or put its "
            f"four IDX files into a folder and set data.idx to it, got {str(idx)!r}"
        ) from None
    return _of_tfds(builder, "train"), _of_tfds(builder, "test")


def _of_tfds(builder: Any, split: str) -> Batch:
    source = open_split(builder, split)
    images = np.empty((len(source), _SIDE, _SIDE, 1), np.uint8)
    labels = np.empty(len(source), np.int32)
    for place in range(len(source)):
        example = source[place]
        images[place], labels[place] = example["image"], example["label"]
    return {"inputs": images, "labels": labels}


def _of_idx(folder: Path, split: str) -> Batch:
    files = [folder / f"{_FILES[split]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    images, labels = _idx(files[0], 3), _idx(files[1], 1)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise InputError(f"{files[0]}: expected images of 28x28, got {images.shape[1:]}")
    if len(images) != len(labels) or not len(labels):
        raise InputError(
            f"{files[1]}: expected a label for each of the {len(images)} images of "
            f"{files[0].name}, got {len(labels)}"
        )
    if labels.max() >= _CLASSES:
        raise InputError(f"{files[1]}: labels are 0 to {_CLASSES - 1}, got {labels.max()}")
    return {"inputs": images[..., None], "labels": labels.astype(np.int32)}


def _idx(path: Path, axes: int) -> np.ndarray:
    """Reads an IDX file of bytes with so many axes."""
    remedy = "reinstall dataset-fashion-mnist, or copy the file again"
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:  # also what is not compressed by gzip
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); {remedy}") from None
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, 8, axes)):
        raise InputError(
            f"{path}: expected an IDX file of bytes with {axes} axes, which starts with 00 00 08 "
            f"{axes:02x}, got {content[:4].hex(' ') or 'nothing'}; {remedy}"
        )
    shape = tuple(map(int, np.frombuffer(content, ">u4", axes, 4)))
    if len(content) - head != math.prod(shape):
        raise InputError(
            f"{path}: its head says {math.prod(shape)} values, {' x '.join(map(str, shape))}; it "
            f"has {len(content) - head}; {remedy}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _fingerprint(*parts: Batch) -> str:
    """Returns 16 hexadecimal digits that depend on all pixels and labels, and their order."""
    digest = hashlib.sha256()
    for part in parts:
        for values in part.values():
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def _augment(batch: Batch, rng: np.random.Generator) -> Batch:
    return {**batch, "inputs": flip(pad_crop(batch["inputs"], rng, 1), rng)}


def _normalize(batch: Batch) -> Batch:
    return {**batch, "inputs": (batch["inputs"] / np.float32(255) - _MEAN) / _STD}

"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32x32 in 10 or 100 classes.

They come through TFDS, which needs TensorFlow and the network to prepare them, once; reading needs
neither. The 184 MB are read into memory.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from domino_jax.data import Data, Spec
from domino_jax.data.augment import flip, pad_crop
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.options import require_flag
from domino_jax.data.pipeline import Batch
from domino_jax.data.prepared import open_split, require_prepared, stock

# Mean and standard deviation of the training pixels in 0 to 1.
_MOMENTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_EXAMPLE = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)


def create(classes: int, *, data_dir: str = "", workers: int = 0, augment: bool = True) -> Data:
    """Opens CIFAR-10 or CIFAR-100.

    Args:
        classes: 10 or 100.
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: not used; threads serve arrays in memory.
        augment: pad each side of a training image by 4, crop at random, mirror half of them.

    Returns:
        Inputs are float32 [B, 32, 32, 3] of about zero mean and unit variance, labels from 0.

    Raises:
        InputError: `augment` is no flag, or the data are not prepared.
    """
    del workers
    require_flag("augment", augment)
    name = f"cifar{classes}"
    builder = stock(name, data_dir)
    require_prepared(builder)
    train, test = _arrays(builder, "train"), _arrays(builder, "test")
    finish = partial(_normalize, name)
    return Data(
        train=partial(train_arrays, train, augment=_augment if augment else None, finish=finish),
        evaluate=partial(evaluate_arrays, test, finish=finish),
        example=_EXAMPLE,
        classes=classes,
        train_size=len(train["labels"]),
        test_size=len(test["labels"]),
        fingerprint=builder.info.full_name,
    )


def spec(classes: int, *, data_dir: str = "", workers: int = 0, augment: bool = True) -> Spec:
    """Describes either one; nothing is read. Arguments as for `create`."""
    del data_dir, workers
    require_flag("augment", augment)
    return Spec(_EXAMPLE, jax.ShapeDtypeStruct((1,), np.int32), classes, 50_000, 10_000)


create_10, spec_10 = partial(create, 10), partial(spec, 10)
create_100, spec_100 = partial(create, 100), partial(spec, 100)


def _arrays(builder: Any, split: str) -> Batch:
    """Reads a split: 'inputs' uint8 [N, 32, 32, 3], 'labels' int32 [N]."""
    source = open_split(builder, split)
    images = np.empty((len(source), 32, 32, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    for place in range(len(source)):
        example = source[place]
        images[place], labels[place] = example["image"], example["label"]
    return {"inputs": images, "labels": labels}


def _augment(batch: Batch, rng: np.random.Generator) -> Batch:
    return {**batch, "inputs": flip(pad_crop(batch["inputs"], rng, 4), rng)}


def _normalize(name: str, batch: Batch) -> Batch:
    mean, std = np.array(_MOMENTS[name], np.float32)
    scaled = (batch["inputs"] / np.float32(255) - mean) / std
    return {**batch, "inputs": scaled}

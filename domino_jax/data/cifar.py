"""What `cifar10` and `cifar100` share: both are 60,000 images of 32x32, read through TFDS.

TFDS needs TensorFlow and the network to prepare them, once; reading needs neither. The 184 MB are
read into memory.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from domino_jax.data import Data, Spec
from domino_jax.data.augment import flip, pad_crop
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.pipeline import Batch
from domino_jax.data.prepared import require_prepared

# Mean and standard deviation of the training pixels in 0 to 1.
_MOMENTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_EXAMPLE = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)


def from_builder(name: str, data_dir: str, workers: int, augment: bool) -> Data:
    """Opens 'cifar10' or 'cifar100'; arguments and result as those of `cifar10.create`.

    Raises:
        ValueError: the data are not prepared.
    """
    builder = tfds.builder(name, data_dir=data_dir or None)
    require_prepared(builder)
    train, test = _arrays(builder, "train"), _arrays(builder, "test")
    finish = partial(_normalize, name)
    return Data(
        train=partial(train_arrays, train, augment=_augment if augment else None, finish=finish),
        evaluate=partial(evaluate_arrays, test, finish=finish),
        example=_EXAMPLE,
        classes=builder.info.features["label"].num_classes,
        train_size=len(train["labels"]),
        test_size=len(test["labels"]),
        workers=workers,
    )


def spec_of(classes: int) -> Spec:
    """Describes either one."""
    return Spec(_EXAMPLE, jax.ShapeDtypeStruct((1,), np.int32), classes, 50_000, 10_000)


def _arrays(builder: Any, split: str) -> Batch:
    """Reads a split: 'inputs' uint8 [N, 32, 32, 3], 'labels' int32 [N]."""
    source = builder.as_data_source(split)
    images = np.empty((len(source), 32, 32, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    for place, example in enumerate(source):
        images[place], labels[place] = example["image"], example["label"]
    return {"inputs": images, "labels": labels}


def _augment(batch: Batch, rng: np.random.Generator) -> Batch:
    return {**batch, "inputs": flip(pad_crop(batch["inputs"], rng, 4), rng)}


def _normalize(name: str, batch: Batch) -> Batch:
    mean, std = np.array(_MOMENTS[name], np.float32)
    scaled = (batch["inputs"] / np.float32(255) - mean) / std
    return {**batch, "inputs": scaled}

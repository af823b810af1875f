"""A data set of encoded photographs, with ImageNet's transforms.

Letters: B rows of one batch on one process, S pixels of a side.

For training a random resized crop, mirrored or not, with AlexNet's colour noise; for evaluation the
middle after a resize, the short side first. Decoding takes most of the time of a batch and scales
with `workers`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypedDict

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data
from domino_jax.data.images import evaluation_image, lighting, normalize, train_image
from domino_jax.data.options import require_whole
from domino_jax.data.pipeline import Batch, Record, evaluate_batches, train_batches


class Example(TypedDict):
    """An encoded image; `name` says which one is broken."""

    image: bytes
    label: int
    name: str


class Examples(Protocol):
    """Examples by index; picklable, for workers."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Example:
        """Reads one example."""
        ...


def from_encoded(
    train: Examples,
    test: Examples,
    *,
    classes: int,
    size: int,
    short: int,
    workers: int,
    fingerprint: str,
) -> Data:
    """Makes a data set of encoded images.

    Args:
        train: training examples.
        test: evaluation examples.
        classes: number of labels.
        size: S.
        short: pixels of the shorter side, of which evaluation cuts the middle [S, S].
        workers: processes that read ahead.
        fingerprint: tells other examples.

    Returns:
        Inputs are float32 [B, S, S, 3] of about zero mean and unit variance over ImageNet.

    Raises:
        InputError: `size` or `short` is out of range.
    """
    require_sizes(size, short)
    return Data(
        train=partial(train_batches, train, augment=partial(_draw, size), finish=_normalize),
        evaluate=partial(
            evaluate_batches, _Middles(test, size, short), finish=_normalize, workers=workers
        ),
        example=jax.ShapeDtypeStruct((1, size, size, 3), np.float32),
        classes=classes,
        train_size=len(train),
        test_size=len(test),
        workers=workers,
        fingerprint=fingerprint,
    )


def require_sizes(size: int, short: int) -> None:
    """Refuses what is no number of pixels of a side, and of the shorter side before the cut.

    Raises:
        InputError: the option, what is allowed and what came.
    """
    require_whole("size", size, 1)
    require_whole("short", short, size)


def _draw(size: int, example: Example, rng: np.random.Generator) -> Record:
    try:
        image = train_image(example["image"], rng, size)
    except ValueError as error:
        raise InputError(f"{example['name']}: {error}") from error
    return {"inputs": image, "labels": np.int32(example["label"]), "light": lighting(rng)}


@dataclass(frozen=True)
class _Middles:
    """Evaluation records, decoded at the moment of asking."""

    examples: Examples
    size: int
    short: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Record:
        example = self.examples[index]
        try:
            image = evaluation_image(example["image"], self.size, self.short)
        except ValueError as error:
            raise InputError(f"{example['name']}: {error}") from error
        return {"inputs": image, "labels": np.int32(example["label"])}


def _normalize(batch: Batch) -> Batch:
    others = {key: value for key, value in batch.items() if key != "light"}
    return {**others, "inputs": normalize(batch["inputs"], batch.get("light"))}

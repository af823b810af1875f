"""A data set of arrays in memory: the shortest way to bring one's own."""

import hashlib
from functools import partial

import jax
import numpy as np
from numpy.typing import ArrayLike

from domino_jax.core.errors import InputError
from domino_jax.core.finite import is_finite
from domino_jax.data import Data
from domino_jax.data.pipeline import Record, evaluate_batches, train_batches

Arrays = tuple[np.ndarray, np.ndarray]


def from_arrays(
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    *,
    classes: int,
    ignore_label: int | None = None,
) -> Data:
    """Makes a data set of inputs and labels.

    Args:
        train: inputs [N, ...] and integer labels [N, ...] (one per image, or one per token), as
            arrays or as lists of numbers.
        test: the same for evaluation.
        classes: number of labels, 0 to classes - 1.
        ignore_label: a further label, such as -100 or 255, of examples (or tokens, or pixels) that
            count neither in training nor in evaluation.

    Raises:
        InputError: no arrays of numbers, inputs and labels are not equally many, a label is no
            integer or out of range, an input is not finite, or the inputs of both parts differ in
            shape or dtype.
    """
    train, test = _to_arrays("train", train), _to_arrays("test", test)
    _require_alike("inputs", train[0], test[0])
    for split, (_, labels) in (("train", train), ("test", test)):
        _require_classes(split, labels, classes, ignore_label)
    return _data(train, test, np.dtype(np.int32), classes, ignore_label)


def _data(
    train: Arrays, test: Arrays, kind: np.dtype, classes: int, ignore_label: int | None
) -> Data:
    """Makes a data set of which every batch has labels of one kind."""
    return Data(
        train=partial(train_batches, _records("train", train, kind)),
        evaluate=partial(evaluate_batches, _records("test", test, kind)),
        example=jax.ShapeDtypeStruct((1, *train[0].shape[1:]), train[0].dtype),
        classes=classes,
        train_size=len(train[0]),
        test_size=len(test[0]),
        fingerprint=_fingerprint(*train, *test),
        ignore_label=ignore_label,
    )


def from_targets(
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    *,
    ignore_label: int | None = None,
) -> Data:
    """Makes a data set of inputs and numbers that the outputs are to be like.

    Args:
        train: inputs [N, ...] and targets [N, ..., C], one number for each of C outputs: 0 and 1
            for the loss 'sigmoid_cross_entropy', any for 'squared_error'.
        test: the same for evaluation.
        ignore_label: as for `from_arrays`.

    Raises:
        InputError: no arrays of numbers, inputs and targets are not equally many, or the two parts
            differ in shape or dtype.
    """
    train, test = _to_arrays("train", train), _to_arrays("test", test)
    _require_alike("inputs", train[0], test[0])
    _require_alike("targets", train[1], test[1])
    if train[1].ndim < 2:
        raise InputError(f"targets: expected [N, ..., C], got the shape {train[1].shape}")
    kind = np.dtype(np.float32 if train[1].dtype.kind == "f" else np.int32)
    return _data(train, test, kind, train[1].shape[-1], ignore_label)


def _to_arrays(split: str, pair: tuple[ArrayLike, ArrayLike]) -> Arrays:
    inputs, labels = (
        _to_array(f"{split}: {part}", values)
        for part, values in zip(("inputs", "labels"), pair, strict=True)
    )
    if not is_finite(inputs):
        raise InputError(f"{split}: inputs: expected finite numbers, got NaN or infinity")
    return inputs, labels


def _to_array(what: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise InputError(f"{what}: {error}") from None
    if array.ndim == 0 or array.dtype.kind not in "biufcV":  # V: bfloat16 and the like
        raise InputError(f"{what}: expected an array of numbers, got {array.dtype}")
    return array


def _records(split: str, arrays: Arrays, kind: np.dtype) -> list[Record]:
    inputs, labels = arrays
    if len(inputs) != len(labels) or not len(inputs):
        raise InputError(f"{split}: {len(inputs)} inputs and {len(labels)} labels")
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels.astype(kind), strict=True)]


def _require_classes(
    split: str, labels: np.ndarray, classes: int, ignore_label: int | None
) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{split}: expected labels that are integers, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= classes)
    if ignore_label is not None:
        wrong &= labels != ignore_label
    if wrong.any():
        raise InputError(
            f"{split}: expected labels from 0 to {classes - 1}, got {labels.min()} to "
            f"{labels.max()}; one that does not count is from_arrays(..., ignore_label=…)"
        )


def _require_alike(what: str, train: np.ndarray, test: np.ndarray) -> None:
    kinds = [f"{part.dtype}{list(part.shape[1:])}" for part in (train, test)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{what}: train has {kinds[0]} for each example, test {kinds[1]}")


def _fingerprint(*arrays: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on all numbers, shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]

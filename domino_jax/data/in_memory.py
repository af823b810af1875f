"""Batches of arrays in memory: gathered, augmented and finished as a whole.

Letters: N examples, B rows of one batch on one process, G = B · P rows of a global batch.

What `pipeline` does record by record costs 0.03 ms a record in Python, a good part of a step of a
small network; a whole batch costs that much here. For images that must be decoded take `pipeline`.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data.pipeline import Batch, Batches, require_trainable, rows_of, stream

Augment = Callable[[Batch, np.random.Generator], Batch]
Finish = Callable[[Batch], Batch]


@dataclass(frozen=True, eq=False)
class _Shuffled:
    """Endless batches by step; each is a function of the fields and the step alone."""

    arrays: Mapping[str, np.ndarray]
    size: int
    seed: int
    batch: int
    part: slice
    augment: Augment | None
    finish: Finish | None

    def __len__(self) -> int:
        return np.iinfo(np.int64).max // self.batch

    def __getitem__(self, step: int) -> Batch:
        # Places in the endless order of all epochs, one after the other: no state is kept between
        # steps. A batch may lie in two epochs.
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, indices = np.divmod(places, self.size)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            now = epochs == epoch
            indices[now] = _order(self.size, self.seed, epoch)[indices[now]]
        if self.augment is None:
            batch = _take(self.arrays, indices[self.part])
        else:
            # All rows, also those of other processes: each must get the same draws everywhere.
            rng = np.random.default_rng((self.seed, _AUGMENT, step))
            whole = self.augment(_take(self.arrays, indices), rng)
            batch = _take(whole, self.part)
        return batch if self.finish is None else self.finish(batch)


# Streams of random numbers of a seed.
_ORDER, _AUGMENT = 0, 1


# Threads ask for batches of one epoch, or of two; training and recalibration have a seed each.
@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(size)


def train_arrays(
    arrays: Mapping[str, np.ndarray],
    seed: int,
    batch: int,
    *,
    augment: Augment | None = None,
    finish: Finish | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Shuffles, augments and batches arrays without end; `pipeline.train_batches` for arrays.

    Every epoch has its own order and shows each example once; a batch may cross into the next one.
    The generator given to `augment` depends on the seed and the step only.

    Args:
        arrays: such as 'inputs' [N, ...] and 'labels' [N].
        seed: not negative.
        batch: G, at most N.
        augment: changes a whole global batch [G, ...] at random; may change it in place.
        finish: changes this process's batch [B, ...].
        process_index: 0 to P - 1; takes every P-th row of a global batch, starting here.
        process_count: P, a divisor of `batch`.

    Returns:
        Batches by step; arrays have a leading axis of B = batch / P rows.

    Raises:
        InputError: an argument is outside its range, or the arrays differ in length.
    """
    size = _size(arrays)
    rows_of(batch, process_index, process_count)
    require_trainable(size, seed, batch)
    part = slice(process_index, None, process_count)
    return _Shuffled(arrays, size, seed, batch, part, augment, finish)


@dataclass(frozen=True, eq=False)
class _InOrder:
    """The batches of one pass."""

    arrays: Mapping[str, np.ndarray]
    size: int
    batch: int
    part: slice
    finish: Finish | None

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch)

    def __getitem__(self, step: int) -> Batch:
        indices = np.arange(step * self.batch, (step + 1) * self.batch)[self.part]
        batch = _take(self.arrays, indices % self.size)
        batch["weight"] = (indices < self.size).astype(np.float32)
        return batch if self.finish is None else self.finish(batch)


def evaluate_arrays(
    arrays: Mapping[str, np.ndarray],
    batch: int,
    *,
    finish: Finish | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Reads arrays once, in order; `pipeline.evaluate_batches` for arrays.

    Args:
        arrays: such as 'inputs' [N, ...] and 'labels' [N].
        batch: G, at least 1.
        finish: changes this process's batch [B, ...].
        process_index: 0 to P - 1; takes every P-th row of a global batch, starting here.
        process_count: P, a divisor of `batch`.

    Returns:
        ceil(N / batch) batches of B = batch / P rows, with 'weight' float32 [B]: 1, and 0 for
        the rows past the end, which repeat the first examples.

    Raises:
        InputError: an argument is outside its range, or the arrays differ in length.
    """
    size = _size(arrays)
    rows_of(batch, process_index, process_count)
    part = slice(process_index, None, process_count)
    return stream(_InOrder(arrays, size, batch, part, finish))


def _size(arrays: Mapping[str, np.ndarray]) -> int:
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise InputError(f"expected arrays of one length, got {sizes or 'none'}")
    return next(iter(sizes.values()))


def _take(arrays: Mapping[str, np.ndarray], index: np.ndarray | slice) -> Batch:
    return {name: array[index] for name, array in arrays.items()}

"""Grain pipelines: records to batches, and a stream that reads batches ahead.

Letters: B rows of one batch on one process, P processes.

A source is any object with `__len__` and `__getitem__` that gives records, dictionaries of arrays
without a batch axis: a list, a TFDS data source, or a `grain.MapDataset` that decodes one. What is
small and in memory goes faster through `in_memory`.

Batches are random access: batch k is a function of the seed and k, so a run resumes at step k
without any state of an iterator, and threads and workers may make batches in any order. Two
processes, batches of four, five records a to e:

    the endless order     d b e a c | a e c d b | b …       an order of its own for every epoch
    global batches        d b e a|c a e c|d b b …           a batch may cross into the next epoch
    process 0 takes       d   e   c   e   d   b             every other row, whatever P is: the rows
    process 1 takes         b   a   a   c   b   …           of a step are the same for any number

`stream` reads them ahead. Arrays of worker processes cross to the main process in shared memory.
So whatever makes batches large (uint8 to float32) is left to `finish`, which comes after that:

    worker    source[i] -> augment -> batch -> shared memory ┐
    worker    source[j] -> augment -> batch -> shared memory ┴> main: copy -> finish -> the loop
"""

import atexit
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from domino_jax.core.errors import InputError

Record = Mapping[str, Any]
Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Records by index."""

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def __getitem__(self, index: int, /) -> Record:
        """Returns one record, its arrays without a batch axis."""
        ...


class Batches(Protocol):
    """Batches by step."""

    def __len__(self) -> int:
        """Returns the number of steps; `sys.maxsize` or nearly so if endless."""
        ...

    def __getitem__(self, step: int, /) -> Batch:
        """Returns the batch of a step, its arrays with a leading axis of B rows."""
        ...


def train_batches(
    source: Source,
    seed: int,
    batch: int,
    *,
    augment: Callable[[Any, np.random.Generator], Record] | None = None,
    finish: Callable[[Batch], Batch] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Shuffles, augments and batches a source without end.

    Every epoch has its own order and shows each record once; a batch may cross into the next one.
    The generator given to `augment` depends on the seed and the place in the endless order only.

    Args:
        source: the records.
        seed: not negative.
        batch: records of one step over all P processes, at most the size of the source.
        augment: changes one record at random.
        finish: changes a whole batch; cheaper than record by record. Workers send batches as they
            are before that: leave to it what makes them large, such as uint8 to float32.
        process_index: 0 to P - 1; takes every P-th row of a global batch, starting here.
        process_count: P, a divisor of `batch`.

    Returns:
        Batches by step; arrays have a leading axis of B = batch / P rows.

    Raises:
        InputError: an argument is outside its range.
    """
    import grain  # half a second  # noqa: PLC0415

    rows = rows_of(batch, process_index, process_count)
    require_trainable(len(source), seed, batch)
    # Shuffled before it is repeated: grain then gives every epoch a seed of its own.
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
    if augment is not None:
        dataset = dataset.random_map(augment)
    # Sharded after shuffling: step k holds the same records for any number of processes.
    dataset = dataset[process_index::process_count].batch(rows, drop_remainder=True)
    return dataset if finish is None else Finished(dataset, finish)


def evaluate_batches(
    source: Source,
    batch: int,
    *,
    finish: Callable[[Batch], Batch] | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Reads a source once, in order, and marks the rows that fill up the last batch.

    Args:
        source: the records.
        batch: records of one step over all P processes, at least 1.
        finish: changes a whole batch.
        workers: processes that read ahead; 0 reads in threads.
        process_index: 0 to P - 1; takes every P-th row of a global batch, starting here.
        process_count: P, a divisor of `batch`.

    Returns:
        ceil(size / batch) batches of B = batch / P rows, with 'weight' float32 [B]: 1, and 0 for
        the rows past the end, which repeat the first records.

    Raises:
        InputError: an argument is outside its range.
    """
    import grain  # half a second  # noqa: PLC0415

    rows, size = rows_of(batch, process_index, process_count), len(source)

    # The size is rounded up before the rows are shared out, so that every process gets equally many
    # batches: collectives of a sharded step would wait forever for one that a process lacks.
    def weighted(index: int) -> Record:
        return {**source[index % size], "weight": np.float32(index < size)}

    dataset = grain.MapDataset.range(-(-size // batch) * batch).map(weighted)
    dataset = dataset[process_index::process_count].batch(rows, drop_remainder=True)
    return stream(dataset if finish is None else Finished(dataset, finish), workers=workers)


def stream(
    batches: Batches, start: int = 0, *, threads: int = 2, workers: int = 0
) -> Generator[Batch, None, None]:
    """Yields batches from a step on, read ahead; the same ones for any threads and workers.

    Leaving it unfinished is safe: `close()`, the garbage collector or the end of the program stops
    the reading. With workers the program's main module must be importable without side effects
    (`if __name__ == '__main__':`), since every worker imports it.

    Workers need shared memory (/dev/shm), at most threads + 2 batches each as they are before
    `finish`: 1.2 GB for 8 workers and 256 images of 224x224 in uint8.

    Args:
        batches: any object with `__len__` and `__getitem__(step)`.
        start: the first step.
        threads: threads that read, in each worker; 0 reads at the moment of asking.
        workers: processes that read; 0 reads in this one.

    Returns:
        The batches `start`, `start + 1`, … up to the last one.

    Raises:
        InputError: `start`, `threads` or `workers` is negative.
    """
    import grain  # half a second  # noqa: PLC0415

    for name, value in (("start", start), ("threads", threads), ("workers", workers)):
        if value < 0:
            raise InputError(f"{name} must be 0 or more, got {value}")
    # With workers the batches travel unfinished, and the main process calls `finish`.
    finish = batches.finish if workers and isinstance(batches, Finished) else None
    batches = batches.raw if finish is not None else batches  # type: ignore[attr-defined]
    count = max(len(batches) - start, 0)
    if workers:
        batches = _Endless(batches)
    dataset = batches if isinstance(batches, grain.MapDataset) else grain.MapDataset.source(batches)
    # Each thread makes one batch while two wait; those of a worker wait in its own buffer of one.
    waiting = max(threads, 1) if workers else threads + 2
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=waiting)
    dataset = dataset[start:].to_iter_dataset(ahead)
    if workers:
        _require_parsed_flags()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_obey_the_main_process)
    running = _drain(iter(dataset), count, shared=workers > 0, finish=finish)
    _close_at_exit(running)
    return running


def rows_of(batch: int, process_index: int, process_count: int) -> int:
    """Returns B, the rows of one process.

    Raises:
        InputError: the batch cannot be shared out.
    """
    if batch < 1:
        raise InputError(f"batch must be 1 or more, got {batch}")
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index {process_index} is not in 0..{process_count - 1}")
    if batch % process_count:
        raise InputError(f"batch {batch} is not divisible by {process_count} processes")
    return batch // process_count


def require_trainable(size: int, seed: int, batch: int) -> None:
    """Refuses a batch that is larger than the training set, and a negative seed.

    Raises:
        InputError: what came.
    """
    if batch > size:
        raise InputError(f"batch {batch} is larger than the training set of {size}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}")


@dataclass(frozen=True, eq=False)
class Finished:
    """Batches that are finished in the main process, also where workers read them."""

    raw: Any
    finish: Callable[[Batch], Batch]

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, step: int) -> Batch:
        return self.finish(self.raw[step])


@dataclass(frozen=True, eq=False)
class _Endless:
    """Batches, and nothing after them, without an end.

    Where grain itself finds the end, its frames keep the last batches of the workers alive (in a
    reference cycle), and with them the shared memory in which they lie.
    """

    batches: Batches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step] if step < len(self.batches) else {}


def _drain(
    iterator: Any, count: int, *, shared: bool, finish: Callable[[Batch], Batch] | None = None
) -> Generator[Batch, None, None]:
    """Yields `count` batches of the iterator and closes it then, or when closed itself.

    Batches of worker processes lie in shared memory, which grain frees with noise if one of them
    outlives the stream: `shared` copies each and drops it.
    """
    try:
        batches = itertools.islice(map(_copy, iterator) if shared else iterator, count)
        yield from batches if finish is None else map(finish, batches)
    finally:
        iterator.close()


def _copy(batch: Batch) -> Batch:
    return {key: np.array(value) for key, value in batch.items()}


def _close_at_exit(running: Generator[Batch, None, None]) -> None:
    """Closes a forgotten stream while the modules that its workers need still exist."""
    reference = weakref.ref(running)

    def close() -> None:
        if (alive := reference()) is not None:
            alive.close()

    atexit.register(close)
    # What is collected needs no closing any more: the list of these would grow with every stream.
    # Not at exit itself, where it could come before `close`.
    weakref.finalize(running, atexit.unregister, close).atexit = False


def _require_parsed_flags() -> None:
    """Lets grain start workers in programs that do not use absl: it reads its settings as flags."""
    from absl import flags  # noqa: PLC0415

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _obey_the_main_process(worker: int, workers: int) -> None:
    """Leaves Ctrl-C and SIGTERM to the main process, which stops the workers, and dies with it."""
    del worker, workers
    # A scheduler may send SIGTERM to all processes: the main one still has to save.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # A killed parent cannot stop its workers, and they would wait for it without end. `_exit`,
    # because a thread cannot end its process otherwise, and nothing here is worth saving.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)

"""Data sets by name: batches as a pure function of seed and step.

Letters: B rows of one batch on one process.

A data set is one small file with a function `create(*, data_dir, workers, ...) -> Data`, entered in
`_FACTORIES`; one of your own needs no entry, its name is 'package.module:factory'.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax

from domino_jax.data.pipeline import Batch, Batches, stream
from domino_jax.factories import call_factory

__all__ = ["Batch", "Batches", "Data", "Evaluate", "Train", "create", "names", "stream"]

_FACTORIES = {"digits": "domino_jax.data.digits:create"}


class Train(Protocol):
    """Makes endless training batches."""

    def __call__(
        self, seed: int, batch: int, *, process_index: int = 0, process_count: int = 1
    ) -> Batches:
        """Returns batches by step, each a pure function of seed and step.

        Args:
            seed: not negative; sets the order of the examples and their augmentation.
            batch: examples of one step over all processes, 1 to `train_size`.
            process_index: which part of every batch to return, 0 to process_count - 1.
            process_count: parts of a batch, a divisor of `batch`. The parts of a step hold the same
                examples for any number of processes.

        Returns:
            `batches[step]` -> {'inputs': [B, ...], 'labels': [B] int32}, B = batch / process_count.

        Raises:
            ValueError: an argument is outside its range.
        """
        ...


class Evaluate(Protocol):
    """Reads the test examples once, in order."""

    def __call__(
        self, batch: int, *, process_index: int = 0, process_count: int = 1
    ) -> Iterable[Batch]:
        """Returns the batches of one pass.

        Args:
            batch: examples of one step over all processes, at least 1.
            process_index: which part of every batch to return, 0 to process_count - 1.
            process_count: parts of a batch, a divisor of `batch`.

        Returns:
            {'inputs': [B, ...], 'labels': [B] int32, 'weight': [B] float32}, B = batch /
            process_count; all batches are whole and every process gets equally many. The rows that
            fill up the last one have weight 0 (they repeat the first examples), all others 1.

        Raises:
            ValueError: an argument is outside its range.
        """
        ...


class Data(NamedTuple):
    """One data set, ready to read."""

    train: Train  # train(seed, batch)[step] -> batch; endless
    evaluate: Evaluate  # evaluate(batch) -> the test batches, with 'weight'
    example: jax.ShapeDtypeStruct  # of one example's inputs, [1, ...]
    classes: int
    train_size: int  # examples
    test_size: int  # examples
    workers: int = 0  # as given to `create`: what to pass on to `stream`


def names() -> tuple[str, ...]:
    """Lists the data sets that `create` knows by name."""
    return tuple(sorted(_FACTORIES))


def create(name: str, *, data_dir: str = "", workers: int = 0, **options: Any) -> Data:
    """Opens a data set; one that is generated here is prepared on first use.

    Args:
        name: one of `names()`, or 'package.module:factory' for a function that takes `data_dir`,
            `workers` and the options by keyword and returns `Data`.
        data_dir: folder of the prepared data sets; '' is the environment variable TFDS_DATA_DIR,
            or else the default of TFDS.
        workers: processes that read ahead; 0 reads in threads, which is enough for small images.
        **options: of the data set, such as `augment` of 'digits'.

    Returns:
        The data set.

    Raises:
        ValueError: the name is unknown, the factory cannot be loaded or does not take the options
            or returns something else, `workers` is negative, or the data are not prepared.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    arguments = {"data_dir": data_dir, "workers": workers, **options}
    return call_factory(name, _FACTORIES, arguments, Data, what="data set")

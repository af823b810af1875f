"""Data sets by name: batches as a pure function of seed and step.

Letters: B rows of one batch on one process.

A data set is one small file and one line of `DATA_SETS`. The file has two functions with the same
options: `create(*, data_dir, workers, ...) -> Data` and `spec(*, data_dir, workers, ...) -> Spec`.
One of your own is the first alone, and its name is 'package.module:factory'.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax

from domino_jax.core.errors import InputError
from domino_jax.core.factories import call_factory
from domino_jax.data import own
from domino_jax.data.pipeline import Batch, Batches, stream

__all__ = [
    "DATA_SETS",
    "Batch",
    "Batches",
    "Broken",
    "Data",
    "DataSet",
    "Evaluate",
    "Progress",
    "Spec",
    "Train",
    "create",
    "names",
    "spec",
    "stream",
]


class DataSet(NamedTuple):
    """Where the functions of a data set are; the module is imported when it is asked for."""

    module: str
    create: str = "create"
    spec: str = "spec"


DATA_SETS = {
    "cifar10": DataSet("domino_jax.data.sets.cifar", "create_10", "spec_10"),
    "cifar100": DataSet("domino_jax.data.sets.cifar", "create_100", "spec_100"),
    "digits": DataSet("domino_jax.data.sets.digits"),
    "fashion_mnist": DataSet("domino_jax.data.sets.fashion_mnist"),
    "folder": DataSet("domino_jax.data.sets.folder"),
    "glyphs": DataSet("domino_jax.data.sets.glyphs"),
    "imagenet2012": DataSet("domino_jax.data.sets.imagenet"),
    "stdlib_bytes": DataSet("domino_jax.data.sets.stdlib_bytes"),
    "text": DataSet("domino_jax.data.sets.text"),
}


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
            InputError: an argument is outside its range.
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
            InputError: an argument is outside its range.
        """
        ...


class Broken(NamedTuple):
    """A file that cannot be read."""

    name: str  # as in `Data.files`
    path: str
    why: str


Progress = Callable[[int, int], None]  # (files that are checked, of how many)


class Data(NamedTuple):
    """One data set, ready to read."""

    train: Train  # train(seed, batch)[step] -> batch; endless
    evaluate: Evaluate  # evaluate(batch) -> the test batches, with 'weight'
    example: jax.ShapeDtypeStruct  # of one example's inputs, [1, ...]
    classes: int
    train_size: int  # examples
    test_size: int  # examples
    workers: int = 0  # what to pass on to `stream`; 0 where threads serve better
    fingerprint: str = ""  # tells other examples or another order of them; '': not said
    ignore_label: int | None = None  # examples or positions with this label do not count
    # Of examples in files of their own: name -> bytes, and which of them cannot be read.
    files: Callable[[], Mapping[str, int]] = dict
    check: Callable[[Progress], list[Broken]] | None = None


class Spec(NamedTuple):
    """What is known of a data set that is not opened, nor need be there."""

    example: jax.ShapeDtypeStruct  # of one example's inputs, [1, ...]
    label: jax.ShapeDtypeStruct  # of one example's labels, [1, ...]
    classes: int
    train_size: int  # examples; about as many, where that depends on the machine
    test_size: int


def names() -> tuple[str, ...]:
    """Lists the data sets that `create` knows by name."""
    return tuple(sorted(DATA_SETS))


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
        InputError: the name is unknown, the factory cannot be loaded or does not take the options
            or returns something else, `workers` is negative, or the data are not prepared.
    """
    _require_workers(workers)
    arguments = {"data_dir": data_dir, "workers": workers, **options}
    factory_by_name = {key: f"{entry.module}:{entry.create}" for key, entry in DATA_SETS.items()}
    data: Data = call_factory(name, factory_by_name, arguments, Data, what="data set")
    if name in factory_by_name:
        return data
    return data._replace(
        train=partial(own.train, name, data.train),
        evaluate=partial(own.evaluate, name, data.evaluate),
    )


def spec(name: str, *, data_dir: str = "", workers: int = 0, **options: Any) -> Spec:
    """Describes a data set; one of ours is neither prepared nor read, your own is opened.

    Args:
        name: as for `create`.
        data_dir: as for `create`.
        workers: as for `create`.
        **options: as for `create`.

    Raises:
        InputError: as `create`, except that ours need not be prepared.
    """
    _require_workers(workers)
    arguments = {"data_dir": data_dir, "workers": workers, **options}
    if ":" not in name:
        factory_by_name = {key: f"{entry.module}:{entry.spec}" for key, entry in DATA_SETS.items()}
        return call_factory(name, factory_by_name, arguments, Spec, what="data set")
    data = create(name, **arguments)
    labels = data.train(0, 1)[0]["labels"]
    label = jax.ShapeDtypeStruct(labels.shape, labels.dtype)
    return Spec(data.example, label, data.classes, data.train_size, data.test_size)


def _require_workers(workers: int) -> None:
    if workers < 0:
        raise InputError(f"workers must be 0 or more, got {workers}")

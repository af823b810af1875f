"""TFDS data sets on disk: what must be there, and how our own come to be there."""

import contextlib
import glob
import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from domino_jax.core.errors import InputError

_ABANDONED = 3600.0  # seconds without a write, which is a matter of a minute
_FORMAT = "array_record"  # the one that can be read without TensorFlow, in any order


class LocalInfo(tfds.core.DatasetInfo):
    """Information that TFDS need not look for elsewhere."""

    def initialize_from_bucket(self) -> None:
        """Skips the look-up of published data, which leaves a temporary folder behind."""


def stock(name: str, data_dir: str) -> Any:
    """Makes the builder of a data set of TFDS, its data on disk or not.

    Args:
        name: of the data set.
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
    """
    return tfds.builder(name, data_dir=data_dir or None)


def require_prepared(builder: Any, archives: Mapping[str, str] | None = None) -> None:
    """Refuses a TFDS builder whose data are not on disk as array_record files.

    Nothing is prepared here: TFDS needs TensorFlow and the network for that.

    Args:
        builder: a `tfds.core.DatasetBuilder`, made without `file_format`.
        archives: split -> file that the user has to bring; all those splits must be there.

    Raises:
        InputError: the data are missing or in another format; one line with the command that
            prepares them.
    """
    name, _, version = builder.info.full_name.rpartition("/")
    root, splits = os.fspath(builder.data_dir_root), builder.info.splits
    bring, remove = dict(archives or {}), f"remove {os.fspath(builder.data_dir)}, then "
    missing = [split for split in bring if split not in splits]
    if not splits:
        reason, remove = "is not prepared", ""
    elif _FORMAT not in (formats := _formats(builder)):
        reason = f"is prepared as {', '.join(formats)} instead of {_FORMAT}"
    elif missing:
        reason = f"has no {' and '.join(missing)} split"
    elif lost := _lost(builder):
        reason = f"lacks {lost[0]} ({len(lost)} in all)"
    else:
        return
    if bring:
        remove += f"put {' and '.join(bring.values())} into {root}/downloads/manual and "
    # The command `tfds build` needs apache-beam to start; this does not.
    builder_of = f"tfds.builder('{name}:{version}', data_dir={root!r})"
    command = f"{builder_of}.download_and_prepare(file_format='{_FORMAT}')"
    raise InputError(
        f"data set {name!r} {reason} in {root}; {remove}run once, where tensorflow-cpu is "
        f'installed: python -c "import tensorflow_datasets as tfds; {command}"'
    )


@dataclass(frozen=True)
class Records:
    """The examples of a prepared split, one by one; a file that cannot be read is named."""

    source: Any
    folder: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        try:
            record: Mapping[str, Any] = self.source[index]
        except RuntimeError as error:
            reason = str(error)
        else:
            if all(value is not None for value in record.values()):
                return record
            reason = "it is empty"
        raise InputError(f"{self.folder}: a file is damaged: record {index}: {reason}")


def open_split(builder: Any, split: str, **options: Any) -> Records:
    """Opens a split that is on disk; options are those of TFDS's `as_data_source`."""
    return Records(builder.as_data_source(split, **options), os.fspath(builder.data_dir))


def prepare_own(builder_class: Callable[..., Any], data_dir: str = "") -> Any:
    """Makes the builder of a data set that is generated here, and its files on first use.

    Quiet, without the network, and safe when several processes start together: each writes a
    folder of its own, the first to finish names it, the others read that one. Output of other
    threads is lost for the second this takes.

    Args:
        builder_class: a `tfds.core.GeneratorBasedBuilder` that downloads nothing.
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.

    Returns:
        The builder, its data on disk as array_record files.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """
    builder = builder_class(data_dir=data_dir or None)
    if not builder.info.splits:
        _remove_left(Path(builder.data_dir))
        problem = _generate(builder)
        builder = builder_class(data_dir=data_dir or None)
        if not builder.info.splits:
            reason = problem or "the folder holds something else; remove it"
            raise InputError(f"cannot prepare {builder.name!r} in {builder.data_dir}: {reason}")
    if _FORMAT not in (formats := _formats(builder)):
        raise InputError(
            f"{builder.data_dir} holds {', '.join(formats)} instead of {_FORMAT}; remove it"
        )
    return builder


def _remove_left(place: Path) -> None:
    """Removes what a killed process left of its writing; another may be writing at this moment."""
    now = time.time()
    for left in place.parent.glob(f"incomplete.*_{glob.escape(place.name)}"):
        with contextlib.suppress(OSError):
            if now - max(path.stat().st_mtime for path in (left, *left.iterdir())) > _ABANDONED:
                shutil.rmtree(left)


def _generate(builder: Any) -> OSError | None:
    """Writes the files; returns why that failed, also where another process was faster."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    silence = io.StringIO()  # TFDS prints two lines and six progress bars
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            builder.download_and_prepare(download_config=config, file_format=_FORMAT)
    except OSError as error:
        return error
    return None


def _lost(builder: Any) -> list[str]:
    """Lists the files of the splits that are not there."""
    files = (path for split in builder.info.splits.values() for path in split.filepaths)
    return [os.fspath(path) for path in files if not path.exists()]


def _formats(builder: Any) -> list[str]:
    return sorted(str(form.value) for form in builder.info.available_file_formats())

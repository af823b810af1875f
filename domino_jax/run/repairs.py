"""Files of the data that cannot be read: found before a run, which goes on once they are mended.

    data_files.json    {"fingerprint": …, "files": {name: bytes}, "broken": [name, …]}

A work directory knows its data by their fingerprint, and refuses others. Where each example is a
file, it also notes the size of each file, and which files could not be read when a run asked for
them. If the data then differ in these broken files alone, and each of them can now be read or is
gone, they are the same data mended: the run goes on, and says which files changed. Any other
difference is other data.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from domino_jax.core.errors import InputError
from domino_jax.data import Broken, Data
from domino_jax.run import monitor, workdir
from domino_jax.run.provenance import DATA, read_record

FILES = "data_files.json"
_NAMED = 3  # files in one message


def require_readable(folder: Path, data: Data) -> None:
    """Refuses data of which a file cannot be read; shows how far the check is.

    Args:
        folder: the work directory, which notes them.
        data: the data set.

    Raises:
        InputError: the first such file, why, and how many there are.
    """
    broken_files = _broken(data)
    if broken_files:
        _note(folder, broken_files)
        raise InputError(_told(broken_files))


@contextmanager
def noting(folder: Path, data: Data) -> Iterator[None]:
    """Looks for files that broke during a run, if wrong data end the run.

    Raises:
        InputError: as `require_readable`, or what was raised.
    """
    try:
        yield
    except InputError as error:
        if broken_files := _broken(data):
            _note(folder, broken_files)
            raise InputError(_told(broken_files)) from error
        raise


def settled(folder: Path, data: Data) -> Data:
    """Gives mended data the fingerprint of those that a work directory was made with.

    Returns:
        The data, with another fingerprint if they differ from the recorded ones in files that were
        noted as broken, and in nothing else.
    """
    noted = _read(folder)
    if not noted or noted["fingerprint"] in (data.fingerprint, ""):
        return data
    changed = _changes(noted["files"], data.files())
    if not changed or not changed.keys() <= set(noted["broken"]):
        return data
    monitor.say(f"the data were mended, the run goes on: {_listed(list(changed.values()))}")
    return data._replace(fingerprint=noted["fingerprint"])


def record(folder: Path, data: Data) -> None:
    """Notes the files of the data that a work directory is made with, or will be.

    Args:
        folder: the work directory.
        data: as `settled` returns them.
    """
    recorded = read_record(folder).get("common", {}).get(DATA)
    noted = _read(folder).get("fingerprint")
    if recorded not in (None, data.fingerprint) or noted == data.fingerprint:
        return
    files = data.files()  # last: it may look at a million files
    if files and jax.process_index() == 0:
        workdir.update_json(
            folder / FILES, fingerprint=data.fingerprint, files=dict(files), broken=[]
        )


def _read(folder: Path) -> dict[str, Any]:
    """Reads what was noted of the files of the data; {} if nothing was.

    Raises:
        InputError: the file is broken, or not what we write.
    """
    noted = workdir.read_json(folder / FILES)
    for key, kind in (("fingerprint", str), ("files", dict), ("broken", list)):
        if noted and not isinstance(noted.get(key), kind):
            raise InputError(
                f"{folder / FILES}: {key!r}: expected a {kind.__name__}, got {noted.get(key)!r}"
            )
    if not all(isinstance(name, str) for name in noted.get("broken", ())):
        raise InputError(f"{folder / FILES}: 'broken': expected names, got {noted['broken']!r}")
    return noted


def _broken(data: Data) -> list[Broken]:
    if data.check is None:
        return []
    size = data.train_size + data.test_size
    with monitor.progress("checking the files of the data", size, 0, unit="files") as show:
        return data.check(lambda done, _: show(done, ""))


def _note(folder: Path, broken_files: Sequence[Broken]) -> None:
    noted = _read(folder)
    if noted and jax.process_index() == 0:
        names = sorted({*noted["broken"], *(broken.name for broken in broken_files)})
        workdir.update_json(folder / FILES, broken=names)


def _told(broken_files: Sequence[Broken]) -> str:
    first, *others = broken_files
    more = f"; so are {_listed([broken.name for broken in others])}" if others else ""
    return f"{first.path}: {first.why}: replace or remove it, then start again{more}"


def _changes(there: Mapping[str, int], here: Mapping[str, int]) -> dict[str, str]:
    """Returns name -> what changed, of files that are gone, new or of another size."""
    changes = {name: f"{name} is gone" for name in there if name not in here}
    for name, size in here.items():
        if there.get(name) != size:
            before: Any = there.get(name, "no")
            changes[name] = f"{name} has {size} bytes, had {before}"
    return changes


def _listed(texts: Sequence[str]) -> str:
    others = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {others} more" if others > 0 else "")

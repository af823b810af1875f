"""What a work directory was made with: a run goes on only under the same settings, or anew.

    config.json    {"program": "domino_jax", "format": 1, "common": …, "search": …, "train": …}

'common' makes the dense network, 'search' the scheme, 'train' the sparse network. A script writes
its parts before anything else, and leaves directories alone that hold files like ours without it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from domino_jax.allocate.calibration import TABLE
from domino_jax.allocate.measured import FILE as MEASURED
from domino_jax.core.errors import InputError
from domino_jax.core.files import digest_of, json_text
from domino_jax.core.scheme import Scheme
from domino_jax.run import checkpoint, manifest, workdir
from domino_jax.run.settings import defaults, flat
from domino_jax.run.workdir import PHASES, PROGRAM, RECORD

OURS = {"program": PROGRAM, "format": 1}
FILES = ("scheme.json", "results.json", "timing.json", "report.png", TABLE, MEASURED)
COMMON = ("seed", "init", "init_head", "permute", "loss", "accumulate", "model", "data", "dense")
# No result depends on where the data lie (`DATA` tells which they are), on who reads them, or on
# when a search gives up.
FREE = ("data.dir", "data.workers", "search.max_steps", "search.patience")
DATA = "data.fingerprint"
ABSENT = "(not set)"
# Settings that name a file: the name may change while what it holds stays, but not the reverse.
INPUTS = {
    "init": "start",
    "search.objective": "cost table",
    "search.budgets": "cost tables",
    "search.table": "loss table",
}
CONTENT = ".content"

Part = Mapping[str, Any]
Parts = Mapping[str, Part]


def begin_search(folder: Path, config: ConfigDict, *, data: str, anew: bool) -> None:
    """Starts or goes on with search.py in a work directory.

    Args:
        folder: the work directory, locked.
        config: all settings.
        data: fingerprint of the data set; '' is not compared.
        anew: forget everything there: checkpoints, events, scheme, results, settings.

    Raises:
        InputError: it was made with other settings, or holds files of another origin.
    """
    parts = _of_search(config, data)
    recorded = _read(folder, FILES)
    if anew:
        _require_outside(config.init, folder, PHASES)
    else:
        _require_same(folder, config, recorded, parts, "--anew")
    _once(lambda: _begin(folder, parts, _forget_all if anew else None))


def begin_train(folder: Path, config: ConfigDict, scheme: Scheme, *, data: str, anew: bool) -> None:
    """Starts or goes on with train.py in a work directory.

    Args:
        folder: the work directory, locked.
        config: all settings; those of the search matter where the scheme is the directory's own.
        scheme: the scheme to train under.
        data: fingerprint of the data set; '' is not compared.
        anew: forget what train.py wrote there; the dense network and the search stay.

    Raises:
        InputError: it was made with other settings, or holds files of another origin.
    """
    require_train(folder, config, scheme, data=data, anew=anew)
    parts = _of_train(config, scheme, data)
    _once(lambda: _begin(folder, parts, _forget_training if anew else None))


def require_train(
    folder: Path, config: ConfigDict, scheme: Scheme, *, data: str, anew: bool = False
) -> None:
    """Refuses what `begin_train` refuses; changes nothing but what a killed process left.

    Raises:
        InputError: as `begin_train`.
    """
    parts = _of_train(config, scheme, data) | _searched(config)
    recorded = _read(folder, FILES[1:])
    if anew:
        _require_outside(config.init, folder, ("train",))
        recorded = {name: part for name, part in recorded.items() if name != "train"}
    _require_same(folder, config, recorded, parts, "search.py --anew")


def begin_evaluation(folder: Path, config: ConfigDict, scheme: Scheme, *, data: str) -> None:
    """Starts an evaluation of what a work directory holds.

    Raises:
        InputError: as `begin_train`.
    """
    require_train(folder, config, scheme, data=data)
    _once(lambda: _begin(folder, {"common": _common(config, data)}, None))


def _common(config: ConfigDict, data: str) -> Part:
    return {**_settings(config, COMMON), **_content("init", config.init), DATA: data}


def _of_search(config: ConfigDict, data: str) -> dict[str, Part]:
    return {"common": _common(config, data), "search": _search(config)}


def _search(config: ConfigDict) -> Part:
    files = {key: config.search[key] for key in ("objective", "table")}
    contents = [_content(f"search.{key}", name) for key, name in files.items()]
    beside = _content_beside(config.search.budgets)
    return {**_settings(config, ("search",)), **contents[0], **contents[1], **beside}


def _content_beside(budgets: Iterable[tuple[str, Any]]) -> Part:
    """Returns the digests of the cost tables of further budgets, each with its budget."""
    found = [(_content("", objective), str(amount)) for objective, amount in budgets]
    if not any(digest for digest, _ in found):
        return {}
    text = [f"{digest.get(CONTENT, '')} {amount}" for digest, amount in found]
    return {f"search.budgets{CONTENT}": "; ".join(text)}


def fingerprints(config: ConfigDict, data: str) -> dict[str, str]:
    """Returns what a scheme is made of besides its settings: digests of the files that these name.

    Args:
        config: all settings.
        data: fingerprint of the data set.
    """
    parts = _of_search(config, data)
    named = {key: value for part in parts.values() for key, value in part.items()}
    return {key: value for key, value in named.items() if key == DATA or key.endswith(CONTENT)}


def _content(key: str, name: str) -> Part:
    """Returns a digest of the file or the checkpoint that a setting names; {} if it names none."""
    path = Path(name)
    if not name or not path.exists():
        return {}
    step = checkpoint.latest(path) if path.is_dir() else None
    if step is not None and (sums := path / str(step) / manifest.FILE).is_file():
        path = sums  # of all its files
    return {f"{key}{CONTENT}": digest_of(path)}


def _of_train(config: ConfigDict, scheme: Scheme, data: str) -> dict[str, Part]:
    # By what it says, not by its path: a file may change. The rules say along which axes it groups.
    scheme_part = {"scheme": {name: str(nm) for name, nm in scheme.items()}}
    search = _settings(config, ("search",))
    rules = {key: search[key] for key in ("search.rules", "search.shrink_m")}
    train = {**_settings(config, ("train",)), **rules, **scheme_part}
    return {"common": _common(config, data), "train": train}


def _searched(config: ConfigDict) -> dict[str, Part]:
    return {} if config.scheme else {"search": _search(config)}


def _settings(config: ConfigDict, names: Iterable[str]) -> dict[str, Any]:
    """Returns key -> value, as JSON has it, of the settings that results depend on."""
    everything = config.to_dict()
    values = dict(flat({name: everything[name] for name in names}))
    try:
        return {key: json.loads(json_text(values[key])) for key in values if key not in FREE}
    except InputError:
        refused = [key for key, value in values.items() if not _is_plain(value)]
        raise InputError(
            f"{refused[0]}: expected finite numbers, text, None or tuples of these, "
            f"got {values[refused[0]]!r}"
        ) from None


def _is_plain(value: Any) -> bool:
    try:
        json_text(value)
    except InputError:
        return False
    return True


def read_record(folder: Path) -> dict[str, Any]:
    """Reads how a work directory was made; {} if it does not say.

    Raises:
        InputError: the file is broken, or a part of it is no object.
    """
    document = workdir.read_json(folder / RECORD)
    for name in ("common", "search", "train"):
        if not isinstance(document.get(name, {}), dict):
            raise InputError(
                f"{folder / RECORD}: {name!r}: expected an object, got {document[name]!r}"
            )
    return document


def _read(folder: Path, foreign: Iterable[str]) -> dict[str, Part]:
    """Reads the parts of a record; {} in a new directory. What a killed process left is tidied."""
    document = read_record(folder)
    if not document:
        names = [name for name in (*PHASES, *foreign) if (folder / name).exists()]
        if names:
            raise InputError(
                f"workdir {folder} holds {names[0]} but no {RECORD} that tells how it was made; "
                "choose another --workdir"
            )
    elif {key: document.get(key) for key in OURS} != OURS:
        raise InputError(
            f"{folder / RECORD} is no record of this program; choose another --workdir"
        )
    _once(lambda: _tidy(folder))  # first: it may bring back a step
    if _is_bare(folder):
        return {}
    return {name: part for name, part in document.items() if name not in OURS}


def _is_bare(folder: Path) -> bool:
    """Says whether a run ended before it made anything that other settings could spoil."""
    files = (folder / name for name in FILES[:2])
    steps = (checkpoint.latest(folder / phase) for phase in (*PHASES, "train/sparse"))
    return not any(path.exists() for path in files) and all(step is None for step in steps)


def _require_same(
    folder: Path, config: ConfigDict, recorded: Parts, parts: Parts, forgetting: str
) -> None:
    different = {
        name: _differences(recorded[name], part)
        for name, part in parts.items()
        if name in recorded and _differences(recorded[name], part)
    }
    if not different:
        return
    texts = dict.fromkeys(text for part in different.values() for text in part)
    kept = [f"--config.init={folder / 'dense'}"] if "common" not in different else []
    kept = [] if config.init or not (folder / "dense").exists() else kept
    if list(different) == ["train"]:
        forgetting = "--anew"
        kept += [] if config.scheme else [f"--config.scheme={folder / 'scheme.json'}"]
    keeping = f" (with {' '.join(kept)})" if kept else ""
    raise InputError(
        f"workdir {folder} was made with other settings: {'; '.join(texts)}; choose another "
        f"--workdir{keeping}, or start anew with {forgetting}"
    )


def _differences(recorded: Part, part: Part) -> list[str]:
    """Lists the keys that differ, with both values.

    A key that an older record lacks had the value that is its default today.
    """
    texts = []
    missing = _settings(defaults(), (*COMMON, "search", "train"))
    same = _same_inputs(recorded, part)
    for key in dict.fromkeys([*recorded, *part]):
        if key in same or key.endswith(CONTENT):
            continue
        if _has_changed(key, recorded, part):
            texts.append(f"the {INPUTS[key]} {part[key]} ({key}) has changed since")
            continue
        there, here = (values.get(key, missing.get(key, ABSENT)) for values in (recorded, part))
        unknown = ("", ABSENT)
        if there == here or (key == DATA and (there in unknown or here in unknown)):
            continue
        if isinstance(there, dict) and isinstance(here, dict):  # a scheme: its first layer will do
            name = next(n for n in [*there, *here] if there.get(n) != here.get(n))
            there, here = there.get(name, ABSENT), here.get(name, ABSENT)
            texts.append(f"{key} of {name} {there} there, {here} here")
        else:
            texts.append(f"{key} {there!r} there, {here!r} here")
    return texts


def _same_inputs(recorded: Part, part: Part) -> list[str]:
    """Lists the settings whose files hold the same as before, wherever they lie now."""
    contents = {key: f"{key}{CONTENT}" for key in INPUTS}
    return [key for key, at in contents.items() if at in part and recorded.get(at) == part[at]]


def _has_changed(key: str, recorded: Part, part: Part) -> bool:
    """Says whether a setting names the same file as before, which holds something else now."""
    there, here = recorded.get(f"{key}{CONTENT}"), part.get(f"{key}{CONTENT}")
    return bool(there and here) and there != here and recorded.get(key) == part.get(key)


def _require_outside(init: str, folder: Path, phases: Iterable[str]) -> None:
    for phase in phases if init else ():
        if Path(init).resolve().is_relative_to((folder / phase).resolve()):
            raise InputError(f"init {init}: --anew would remove it; copy it elsewhere")


def _once(act: Callable[[], None]) -> None:
    """Acts in one of several processes, before any of them goes on."""
    if jax.process_index() == 0:
        act()
    multihost_utils.sync_global_devices("domino_jax record")


def _tidy(folder: Path) -> None:
    """Ends what a killed process was writing, before anything asks what there is."""
    workdir.require_held(folder)
    for name in (*FILES, RECORD, f"search/{workdir.CURVE}"):
        path = folder / name
        workdir.remove(*path.parent.glob(f".{path.name}.*"))
    for phase in (*PHASES, "train/sparse"):
        checkpoint.tidy(folder / phase)


def _begin(folder: Path, parts: Parts, forget: Callable[[Path], None] | None) -> None:
    if forget is not None:
        forget(folder)
    recorded = workdir.read_json(folder / RECORD)
    if recorded and _is_bare(folder):
        _forget_all(folder)
        recorded = {}
    # Replaced and never removed: only a directory that has a record is ours to clear.
    if recorded != {**recorded, **OURS, **parts}:
        workdir.write_json(folder / RECORD, {**recorded, **OURS, **parts})


def _forget_all(folder: Path) -> None:
    for phase in PHASES:
        _forget_phase(folder / phase)
    workdir.remove(*(folder / name for name in FILES))


def _forget_training(folder: Path) -> None:
    _forget_phase(folder / "train")
    for name in ("results.json", "timing.json", RECORD):
        workdir.drop_json(folder / name, "train")


def _forget_phase(folder: Path) -> None:
    """Removes checkpoints, events and curves, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    _forget_phase(folder / "sparse")
    checkpoint.forget(folder)
    workdir.remove(*folder.glob("events.out.tfevents.*"), *folder.glob(f"*{workdir.CURVE}*"))
    if not any(folder.iterdir()) and not folder.is_symlink():
        folder.rmdir()

"""What is wrong with a command line or its config file, in one line.

absl and ml_collections say it in many ways, some of them a traceback in the message.
"""

import difflib
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from domino_jax import settings
from domino_jax.named import require_known

NO_CONFIG = "--config=FILE is missing; the files are in configs/"
_OVERRIDE = re.compile(r"--?config\.([\w.]+)[^=]*=?(.*)", re.DOTALL)
# How ml_collections names a key that is not there.
_UNKNOWN_KEY = re.compile(r"""(?:Key )?\W*(\w+)\W*(?: does not exist.*|Did you mean.*|)""", re.DOTALL)


def require_config(value: Any) -> None:
    """Refuses what a config file gave if it is no ConfigDict.

    Raises:
        ValueError: what it is.
        OSError: the file could not be loaded.
    """
    if not hasattr(value, "keys") or not isinstance(value, ConfigDict):
        raise ValueError(
            "get_config() must return a ConfigDict, as domino_jax.settings.defaults() does, "
            f"got {'nothing' if value is None else type(value).__name__}"
        )


def explain(argv: Sequence[str], error: Exception) -> str:
    """Says why the flags could not be parsed, with the nearest names.

    Args:
        argv: the command line.
        error: what parsing it raised.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(error.flagname)
    config = _config(argv)
    if not config:
        return str(error) if config is None else NO_CONFIG
    file = Path(config.partition(":")[0])
    if not file.is_file():
        return _no_file(file)
    overrides = list(_overrides(argv))
    first = list(_chain(error))[-1]
    return (
        _in_file(file, error)
        or next(filter(None, (_wrong_key(*pair, file, first) for pair in overrides)), "")
        or _wrong_value(overrides, error)
        or (str(error) if isinstance(error, flags.Error) and first is error else "")
        or f"config file {file}: {_text(first)}"
    )


def _config(argv: Sequence[str]) -> str | None:
    for place, word in enumerate(argv):
        if word in ("--config", "-config"):
            return argv[place + 1] if place + 1 < len(argv) else None
        if word.startswith(("--config=", "-config=")):
            return word.partition("=")[2]
    return None


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (key, value) of each --config.key=value, or --config.key value."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := _OVERRIDE.fullmatch(word):
            yield match[1], match[2] if "=" in word else following


def _unknown_flag(name: str) -> str:
    ends = {key.rpartition(".")[2]: key for key in reversed(settings.keys())}
    near = [f"--config.{ends[end]}" for end in difflib.get_close_matches(name, ends, n=2)]
    near = difflib.get_close_matches(f"--{name}", ["--config", "--workdir"], n=1) + near
    return (
        f"unknown flag --{name}; nearest: {', '.join(near)}"
        if near
        else f"unknown flag --{name}; there are --config=FILE, --workdir=FOLDER and --config.key=value"
    )


def _no_file(file: Path) -> str:
    if file.is_dir():
        folder, what = file, "is a folder"
    else:
        folder, what = file.parent, "does not exist"
    if not folder.is_dir() or not sorted(folder.glob("*.py")):
        folder = Path("configs")
    there = [str(path) for path in sorted(folder.glob("*.py"))]
    near = difflib.get_close_matches(f"{folder / file.stem}.py", there, cutoff=0.4) or there[:5]
    return f"config file '{file}' {what}; nearest: {', '.join(near) or 'none'}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _in_file(file: Path, error: Exception) -> str:
    """Says what a config file did, with the line; '' if the error did not come from there."""
    for cause in reversed(list(_chain(error))):
        if isinstance(cause, SyntaxError) and cause.filename == str(file):
            return f"config file {file}, line {cause.lineno}: {cause.msg}"
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(cause.__traceback__)
            if Path(frame.filename) == file
        ]
        if lines:
            return f"config file {file}, line {lines[-1]}: {_text(cause)}"
    return ""


def _text(error: BaseException) -> str:
    """Says what an error is; one of an unknown key with the nearest settings."""
    text = str(error).replace("\\n", " ").replace("\\'", "'")
    if isinstance(error, KeyError | AttributeError) and (key := _UNKNOWN_KEY.fullmatch(text)):
        ends = [name.rpartition(".")[2] for name in settings.keys()] + list(settings.groups())
        near = difflib.get_close_matches(key[1], ends, cutoff=0.4)
        names = [
            name
            for end in dict.fromkeys(near)
            for name in (*settings.groups(), *settings.keys())
            if name.rpartition(".")[2] == end
        ]
        return f"unknown setting {key[1]!r}; nearest: {', '.join(names[:5]) or 'none'}"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"


def _wrong_key(key: str, value: str, file: Path, error: BaseException) -> str:
    if key in settings.groups():
        return f"{settings.wanted(key)}, got {value!r}; one is set by --config.{key}.key=value"
    last = key.rpartition(".")[2]
    absent = isinstance(error, KeyError | AttributeError) and re.search(rf"\b{last}\b", str(error))
    if key.startswith(settings.FACTORY_OPTIONS) and key not in settings.keys():
        return (
            f"{key}: {file} has no such option; add it there, under `with config.unlocked():`"
            if absent
            else ""
        )
    try:
        require_known([key], settings.keys(), what="setting")
    except ValueError as unknown:
        return str(unknown)
    return f"setting {key}: {file} lacks it; start from settings.defaults()" if absent else ""


def _wrong_value(overrides: Sequence[tuple[str, str]], error: Exception) -> str:
    if not isinstance(error, flags.IllegalFlagValueError):
        return ""
    wrong = re.match(r"flag --config\.([\w.]+)[^=]*=", str(error))
    given = dict(overrides)
    if wrong is None or wrong[1] not in settings.keys() or wrong[1] not in given:
        return ""
    return f"{settings.wanted(wrong[1])}, got {given[wrong[1]]!r}"

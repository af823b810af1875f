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

from domino_jax.core.errors import InputError
from domino_jax.core.paths import require_known
from domino_jax.run import settings

USAGE = "the config is --config=FILE, settings are --config.key=value"
NO_CONFIG = "--config=FILE is missing; the files are in configs/"
_OVERRIDE = re.compile(r"--?config\.([\w.]*)[^=]*=?(.*)", re.DOTALL)
_PART = re.compile(r"--?(config\.[\w.]+)\[.*", re.DOTALL)
_NO_BOOL = re.compile(r"flag --(\w+)=(.*): .*Non-boolean argument.*", re.DOTALL)
_WRONG_TYPE = re.compile(
    r"Could not override field '(\w+)' \(reference\)\. (.*) is of original type", re.DOTALL
)
# How ml_collections names a key that is not there.
_UNKNOWN_KEY = re.compile(
    r"""\W*(?:Key "(\w+)" does not exist.*|(\w+)\W*|(\w+)\W.*Did you mean.*)""", re.DOTALL
)


def require_config(value: Any) -> None:
    """Refuses what a config file gave if it is no ConfigDict.

    Raises:
        InputError: what it is.
        OSError: the file could not be loaded.
    """
    if not hasattr(value, "keys") or not isinstance(value, ConfigDict):
        raise InputError(
            f"get_config() must return a ConfigDict, as {settings.START} does, got "
            f"{'nothing' if value is None else type(value).__name__}"
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
        or next((_whole(match[1]) for match in map(_PART.fullmatch, argv) if match), "")
        or (_flag_text(error) if isinstance(error, flags.Error) else "")
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
    ends = {key.rpartition(".")[2]: key for key in reversed(settings.names())}
    near = difflib.get_close_matches(f"--{name}", ("--config", "--workdir", "--anew"), n=1) or [
        f"--config.{ends[end]}" for end in difflib.get_close_matches(name, ends, n=2)
    ]
    all_flags = "there are --config, --workdir, --anew and --help"
    known = f"nearest: {', '.join(near)}" if near else all_flags
    return f"unknown flag --{name}; {known}; {USAGE}"


def _no_file(file: Path) -> str:
    folders = dict.fromkeys([file if file.is_dir() else file.parent, Path("configs")])
    there = {path.stem: str(path) for folder in folders for path in sorted(folder.glob("*.py"))}
    near = difflib.get_close_matches(file.stem, there, cutoff=0.4) or sorted(there)[:5]
    fault = "is a folder" if file.is_dir() else "does not exist"
    return f"config file '{file}' {fault}; nearest: {', '.join(there[n] for n in near) or 'none'}"


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
        frames = [
            frame
            for frame in traceback.extract_tb(cause.__traceback__)
            if Path(frame.filename) == file
        ]
        if frames:
            what = _wrong_type(cause, frames[-1].line or "") or _text(cause)
            return f"config file {file}, line {frames[-1].lineno}: {what}"
    return ""


def _wrong_type(error: BaseException, line: str) -> str:
    """Says what a setting must be that a line of a config file gave another type; else ''."""
    found = _WRONG_TYPE.match(str(error)) if isinstance(error, TypeError) else None
    if not found:
        return ""
    keys = [key for key in settings.names() if key.rpartition(".")[2] == found[1]]
    named = [key for key in keys if re.search(rf"\b{key.rpartition('.')[0]}\b", line)]
    sentences = {settings.wanted(key) for key in named or keys}
    return f"{sentences.pop()}, got {found[2]}" if len(sentences) == 1 else ""


def _text(error: BaseException) -> str:
    """Says what an error is; one of an unknown key with the nearest settings."""
    key = _unknown_key(error)
    if key == "get_config":
        return "it has no function get_config()"
    if key:
        by_end: dict[str, list[str]] = {}
        for name in (*settings.groups(), *settings.names()):
            by_end.setdefault(name.rpartition(".")[2], []).append(name)
        ends = difflib.get_close_matches(key, by_end, cutoff=0.4)
        near = [name for end in ends for name in by_end[end]][:5]
        return f"unknown setting {key!r}; nearest: {', '.join(near) or 'none'}"
    first = next(iter(str(error).splitlines()), "")
    return first if type(error) in (ValueError, InputError) else f"{type(error).__name__}: {first}"


def _unknown_key(error: BaseException) -> str:
    if not isinstance(error, KeyError | AttributeError):
        return ""
    text = str(error).replace("\\n", " ").replace("\\'", "'")
    if "has no attribute 'get_config'" in text:
        return "get_config"
    found = _UNKNOWN_KEY.fullmatch(text)
    return next(filter(None, found.groups()), "") if found else ""


def _wrong_key(key: str, value: str, file: Path, error: BaseException) -> str:
    if key in settings.groups():
        return f"{settings.wanted(key)}, got {value!r}; one is set by --config.{key}.key=value"
    absent = isinstance(error, KeyError | AttributeError) and any(
        re.search(rf"\b{part}\b", str(error)) for part in key.split(".")
    )
    if key.startswith(settings.FACTORY_OPTIONS) and key not in settings.names():
        return (
            f"{key}: {file} has no such option; add it there, under `with config.unlocked():`"
            if absent
            else ""
        )
    try:
        require_known([key], settings.names(), what="setting")
    except ValueError as unknown:
        return str(unknown)
    return f"setting {key}: {file} lacks it; start from {settings.START}" if absent else ""


def _whole(name: str) -> str:
    return f"--{name}[...]: a part of a setting cannot be set, only the whole: --{name}=value"


def _flag_text(error: flags.Error) -> str:
    if match := _NO_BOOL.fullmatch(str(error)):
        return f"--{match[1]}: True or False is wanted, got {match[2]!r}"
    return "" if "Traceback" in str(error) else str(error)


def _wrong_value(overrides: Sequence[tuple[str, str]], error: Exception) -> str:
    if not isinstance(error, flags.IllegalFlagValueError):
        return ""
    wrong = re.match(r"flag --config\.([\w.]+)[^=]*=", str(error))
    given = dict(overrides)
    if wrong is None or wrong[1] not in settings.names() or wrong[1] not in given:
        return ""
    return f"{settings.wanted(wrong[1])}, got {given[wrong[1]]!r}"

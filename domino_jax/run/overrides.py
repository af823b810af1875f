"""Settings on the command line: --config.key=value, read by the type of the setting.

Read here and not by absl, which knows neither which setting is wrong nor what it should be.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from domino_jax.core.errors import InputError
from domino_jax.run.setting import Setting
from domino_jax.run.settings import FACTORY_OPTIONS, expected, missing, unknown
from domino_jax.run.settings_table import GROUPS, SETTINGS

_STARTS = ("--config.", "-config.")
_NEGATED = ("--noconfig.", "-noconfig.")
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


class Override(NamedTuple):
    """One setting of the command line, and the text of its value."""

    key: str
    text: str


def split(words: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Takes the settings out of a command line.

    A value may follow as the next word. A setting that is True or False needs none, and neither
    does an option of a network or data set; `--noconfig.key` makes it False.

    Returns:
        The other words, and the settings in their order.

    Raises:
        InputError: a setting without a value, or `--noconfig.key` with one.
    """
    rest: list[str] = []
    overrides: list[Override] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            return [*rest, word, *remaining], overrides
        start = next((s for s in (*_STARTS, *_NEGATED) if word.startswith(s)), None)
        if start is None:
            rest.append(word)
            continue
        key, equals, text = word.removeprefix(start).partition("=")
        if equals and start in _NEGATED:
            raise InputError(
                f"--noconfig.{key}: expected no value, got {text!r}; --config.{key}={text} sets it"
            )
        overrides.append(Override(key, text if equals else _value(key, start, remaining)))
    return rest, overrides


def _value(key: str, start: str, remaining: Iterator[str]) -> str:
    if start in _NEGATED:
        return "False"
    if _is_flag(key):
        return "True"
    text = next(remaining, None)
    if text is None:
        raise InputError(
            f"--config.{key}: expected a value, got none; --config.{key}=value sets it"
        )
    return text


def _is_flag(key: str) -> bool:
    if key in SETTINGS:
        return isinstance(SETTINGS[key].default, bool)
    return key.startswith(FACTORY_OPTIONS)


def apply(config: ConfigDict, overrides: Iterable[Override], file: str) -> None:
    """Changes a config as the command line says.

    Args:
        config: locked; changed in place.
        overrides: as `split` gives them.
        file: that the config is of, for error messages.

    Raises:
        InputError: an unknown setting, or a value of another type; whether it is in range, the
            check of the whole config says.
    """
    for key, text in overrides:
        holder = _holder(config, key, text, file)
        name = key.rpartition(".")[2]
        value = _read(key, text, holder.get(name))
        with holder.unlocked(), holder.ignore_type():
            holder[name] = value


def _holder(config: ConfigDict, key: str, text: str, file: str) -> ConfigDict:
    """Finds the group of a setting.

    Raises:
        InputError: there is no such setting.
    """
    if key in GROUPS:
        raise InputError(f"{expected(key)}, got {text!r}; one is set by --config.{key}.key=value")
    if "[" in key:
        whole = f"--config.{key.partition('[')[0]}"
        raise InputError(
            f"{whole}[...]: a part of a setting cannot be set, only the whole: {whole}=value"
        )
    option = key.startswith(FACTORY_OPTIONS)
    if key not in SETTINGS and not (option and all(key.split("."))):
        raise InputError(unknown(key))
    holder: Any = config
    *above, name = key.split(".")
    for part in above:
        holder = holder.get(part)
        if not isinstance(holder, ConfigDict):
            break
    if isinstance(holder, ConfigDict) and (name in holder or (option and len(above) == 1)):
        return holder
    if key in SETTINGS:
        raise InputError(f"{missing(key)} ({file} lacks it)")
    raise InputError(
        f"{key}: {file} has no such option; add it there, under `with config.unlocked():`"
    )


def _read(key: str, text: str, current: Any) -> Any:
    """Reads the text of a value as the type of its setting; of an option, as that of its value."""
    setting = SETTINGS.get(key)
    kind = type(current) if setting is None else setting.values or type(setting.default)
    if kind is str:
        may_be_none = setting is not None and setting.default is None
        return None if may_be_none and text == "None" else text
    if kind is bool and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = text
    if kind is type(None):  # an option of any type
        return value
    if value is None and setting is not None and setting.values:
        return value
    if kind is object:
        if setting is not None and not setting.allows(value):
            raise _refused(key, text, kind)
        return value
    value = _cast(value, kind)
    if type(value) is not kind and not _is_word(setting, value):
        raise _refused(key, text, kind)
    return value


def _is_word(setting: Setting | None, value: Any) -> bool:
    """Tells a word that a setting allows beside values of its type."""
    return (
        setting is not None
        and setting.words
        and isinstance(value, str)
        and bool(setting.allows(value))
    )


def _cast(value: Any, kind: type) -> Any:
    """Makes a float of a whole number, and a tuple of a list or of one number alone."""
    if kind is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if kind is tuple and not isinstance(value, str):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    return value


def _refused(key: str, text: str, kind: type) -> InputError:
    what = expected(key) if key in SETTINGS else f"{key}: expected {kind.__name__}"
    return InputError(f"{what}, got {text!r}")

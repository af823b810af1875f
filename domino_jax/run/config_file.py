"""Loads a config file; whatever it does wrong is one line with the file and the line."""

import difflib
import sys
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from domino_jax.core.errors import InputError, said
from domino_jax.run.settings import START, flat

_MODULE = "config_config"


def load(name: str) -> ConfigDict:
    """Calls `get_config` of a config file.

    Args:
        name: the file; what follows a colon is the argument of its `get_config`.

    Returns:
        Its config, locked; not checked.

    Raises:
        InputError: there is no such file, it fails, or it gives no config.
    """
    path, colon, argument = name.partition(":")
    file = Path(path)
    if not file.is_file():
        raise InputError(_no_file(file))
    return _call(file, (argument,) if colon else ())


def _call(file: Path, arguments: tuple[str, ...]) -> ConfigDict:
    loader = SourceFileLoader(_MODULE, str(file))
    sys.modules[_MODULE] = module = module_from_spec(ModuleSpec(_MODULE, loader, origin=str(file)))
    try:
        loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise InputError("it has no function get_config()")
        config = module.get_config(*arguments)
        if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
            kind = "nothing" if config is None else type(config).__name__
            raise InputError(
                f"expected a ConfigDict from get_config(), as {START} makes it, got {kind}"
            )
        for _ in flat(config.lock()):  # what cannot be read is said with the file
            pass
        return config
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file does, `sys.exit` too
        raise InputError(f"config file {file}{_line(error, file)}: {_said(error)}") from error


def _line(error: BaseException, file: Path) -> str:
    """Returns ', line 3': the last line of the file that was at work; '' if none was."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}" if error.lineno else ""
    lines = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") == _MODULE
    ]
    return f", line {lines[-1]}" if lines else ""


def _said(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    if isinstance(error, InputError):
        return str(error)
    return said(error)


def _no_file(file: Path) -> str:
    folders = dict.fromkeys([file if file.is_dir() else file.parent, Path("configs")])
    path_by_name = {
        path.stem: str(path) for folder in folders for path in sorted(folder.glob("*.py"))
    }
    near = (
        difflib.get_close_matches(file.stem, path_by_name, cutoff=0.4) or sorted(path_by_name)[:5]
    )
    reason = "is a folder" if file.is_dir() else "does not exist"
    nearest = ", ".join(path_by_name[name] for name in near) or "none"
    return f"config file '{file}' {reason}; nearest: {nearest}"

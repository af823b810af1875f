"""Functions by name, those we know and 'package.module:factory'; and what such code raises."""

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from domino_jax.core.errors import TRACEBACK, InputError
from domino_jax.core.paths import require_known


def call_factory(
    name: str, known: Mapping[str, str], arguments: Mapping[str, Any], result: type, *, what: str
) -> Any:
    """Calls the factory of a name with keyword arguments and checks what it returns.

    Args:
        name: a known name, or 'package.module:factory'.
        known: name -> 'package.module:factory'.
        arguments: of the factory.
        result: the type that it must return.
        what: the kind of thing it makes, for error messages: 'model', 'data set'.

    Raises:
        InputError: an unknown name, a factory that cannot be imported or does not take the
            arguments, whatever it raises, or a result of another type.
    """
    factory = find_factory(name, known, what=what)
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{what} {name!r}: {error}; it takes {signature}") from None
    try:
        product = factory(**arguments)
    except InputError:
        raise
    except Exception as error:  # whatever a user's factory does
        raise InputError(f"{what} {name!r}: {told(error, name)}") from error
    if not isinstance(product, result):
        raise InputError(
            f"{what} {name!r}: expected a {result.__module__}.{result.__name__} of the factory, "
            f"got {type(product).__name__}"
        )
    return product


def find_factory(name: str, known: Mapping[str, str], *, what: str) -> Callable[..., Any]:
    """Finds the factory of a name; nothing is made.

    Args:
        name: as in `call_factory`.
        known: as in `call_factory`.
        what: as in `call_factory`.

    Raises:
        InputError: an unknown name, or a factory that cannot be imported.
    """
    if ":" not in name:
        try:
            require_known([name], list(known), what=what)
        except ValueError as error:
            raise InputError(f"{error}; one of your own is 'package.module:factory'") from None
    return _load(known.get(name, name), what)


def told(error: BaseException, name: str) -> str:
    """Says in one line what an error of called code is, and where in a user's own it came up.

    Args:
        error: what was raised.
        name: of the factory that was called, or of the one that made the called function.
    """
    text = next(iter(str(error).splitlines()), "").rstrip(".")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said}{_place(error, name)}; {TRACEBACK}=1 shows more"


def _place(error: BaseException, name: str) -> str:
    """Returns the last line in the package of the user's factory; '' of a network of ours."""
    package = name.partition(":")[0].partition(".")[0]
    lines = [
        (frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if ":" in name and str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return f" ({_shown(lines[-1][0])}, line {lines[-1][1]})" if lines else ""


def _shown(filename: str) -> Path:
    path, here = Path(filename), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _load(target: str, what: str) -> Callable[..., Any]:
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(
            f"{what}: expected a known name or 'package.module:factory', got {target!r}"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or " "):
            reason += "; is its folder in PYTHONPATH?"
        raise InputError(f"{what} {target!r}: cannot import {module_name}: {reason}") from error
    if not callable(getattr(module, attribute, None)):  # a module may make it when it is asked
        functions = [key for key, value in vars(module).items() if callable(value)]
        require_known([attribute], functions, what=f"factory of {module_name}")
    factory: Callable[..., Any] = getattr(module, attribute)
    return factory

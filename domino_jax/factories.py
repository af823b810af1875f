"""Functions by name: those we know, and a user's own as 'package.module:factory'."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from domino_jax.named import require_known


def call_factory(
    name: str, known: Mapping[str, str], arguments: Mapping[str, Any], result: type, *, what: str
) -> Any:
    """Calls the factory of a name with keyword arguments and checks what it returns.

    Args:
        name: a known name, or 'package.module:factory'.
        known: name -> 'package.module:factory'.
        arguments: of the factory.
        result: the type that it must return.
        what: it makes, for error messages: 'model', 'data set'.

    Raises:
        ValueError: an unknown name, a factory that cannot be imported or does not take the
            arguments, or a result of another type.
    """
    factory = find_factory(name, known, what=what)
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{what} {name!r}: {error}; it takes {signature}") from None
    made = factory(**arguments)
    if not isinstance(made, result):
        raise ValueError(
            f"{what} {name!r}: the factory must return a {result.__module__}.{result.__name__}, "
            f"got {type(made).__name__}"
        )
    return made


def find_factory(name: str, known: Mapping[str, str], *, what: str) -> Callable[..., Any]:
    """Finds the factory of a name; nothing is made.

    Args:
        name: as in `call_factory`.
        known: as in `call_factory`.
        what: as in `call_factory`.

    Raises:
        ValueError: an unknown name, or a factory that cannot be imported.
    """
    if ":" not in name:
        try:
            require_known([name], list(known), what=what)
        except ValueError as error:
            raise ValueError(f"{error}; one of your own is 'package.module:factory'") from None
    return _load(known.get(name, name), what)


def _load(target: str, what: str) -> Callable[..., Any]:
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ValueError(f"{what} {target!r}: a known name or 'package.module:factory' is wanted")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or " "):
            reason += "; is its folder in PYTHONPATH?"
        raise ValueError(f"{what} {target!r}: cannot import {module_name}: {reason}") from error
    functions = [key for key, value in vars(module).items() if callable(value)]
    require_known([attribute], functions, what=f"factory of {module_name}")
    return getattr(module, attribute)

"""Functions by name, those we know and 'package.module:factory'; and what such code raises."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from domino_jax.core.errors import TRACEBACK, InputError, place, said
from domino_jax.core.paths import require_known

_OURS = __name__.partition(".")[0]


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
    product = explained(factory, name, what=what)(**arguments)
    if not isinstance(product, result):
        raise InputError(
            f"{what} {name!r}: expected a {result.__module__}.{result.__name__} of the factory, "
            f"got {type(product).__name__}"
        )
    return product


def find_factory(name: str, known: Mapping[str, str], *, what: str) -> Callable[..., Any]:
    """Finds the factory of a name; nothing is made. A user's own is `explained`.

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
    return explained(_load(name, what), name, what=what)


def explained(function: Callable[..., Any], name: str, *, what: str) -> Callable[..., Any]:
    """Returns a function that raises an InputError where `function` fails, or is wrongly called.

    Args:
        function: to be called.
        name: of the factory that it is, or that made it.
        what: as in `call_factory`.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with named(f"{what} {name!r}", name):
            _require_takes(function, f"{what} {name!r}", arguments, options)
            return function(*arguments, **options)

    return call


@contextmanager
def named(subject: str, name: str) -> Iterator[None]:
    """Makes one InputError of whatever called code raises, `sys.exit` too: what, file and line.

    What our own code raises on purpose while it is called (a refusal, the end of a run that was
    asked to stop) stays as it is, and so does Ctrl-C.

    Args:
        subject: what is called, as the line begins.
        name: as in `told`.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if type(error).__module__.partition(".")[0] == _OURS:
            raise
        raise InputError(f"{subject}: {told(error, name)}") from error


def told(error: BaseException, name: str) -> str:
    """Says in one line what an error of called code is, and where in a user's own it came up.

    Args:
        error: what was raised.
        name: of the factory that was called, or of the one that made the called function.
    """
    package = name.partition(":")[0].partition(".")[0]
    where = place(error, lambda module: ":" in name and module.partition(".")[0] == package)
    return f"{said(error)}{where}; {TRACEBACK}=1 shows more"


def _require_takes(
    function: Callable[..., Any], subject: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Refuses arguments that a function does not take, as far as it says what it takes."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C do not say it
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise InputError(f"{subject}: {error}; it takes {signature}") from None


def _load(target: str, what: str) -> Callable[..., Any]:
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(
            f"{what}: expected a known name or 'package.module:factory', got {target!r}"
        )
    with named(f"{what} {target!r}: cannot import {module_name}", target):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not module_name.startswith(error.name or " "):
                raise
            raise InputError(
                f"{what} {target!r}: cannot import {module_name}: {said(error)}; is its folder in "
                "PYTHONPATH?"
            ) from error
        factory: Any = getattr(module, attribute, None)  # a module may make it when it is asked
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value)]
        require_known([attribute], functions, what=f"factory of {module_name}")
    return factory

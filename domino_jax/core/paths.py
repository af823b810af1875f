"""Leaves of a parameter pytree by path, and rules that pick them.

A path joins the keys with '/': `layer1/0/conv1/kernel`. A rule is a pair (regex, value); the
first rule whose regex is found in the path (`re.search`) wins.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from domino_jax.core.errors import InputError

T = TypeVar("T")
Rules = Sequence[tuple[str, Any]]


def path_of(keys: tuple[Any, ...]) -> str:
    """Writes a pytree key path as text, keys joined by '/'."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Lists the leaves of a pytree by path, in the order of the pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in leaves}


def replace_leaves(tree: T, leaves: Mapping[str, Any]) -> T:
    """Returns the pytree with the leaves at the given paths replaced.

    Raises:
        InputError: a path is not in the tree.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    paths = [path_of(keys) for keys, _ in flat]
    require_known(leaves, paths, what="parameter")
    new = [leaves.get(path, leaf) for path, (_, leaf) in zip(paths, flat, strict=True)]
    return jax.tree_util.tree_unflatten(treedef, new)


def require_known(names: Iterable[str], known: Sequence[str], *, what: str) -> None:
    """Refuses names that are not among the known ones, with the nearest known names.

    Raises:
        InputError: the first unknown name, and what is allowed.
    """
    import difflib  # costs a few ms of start-up, needed only in an error  # noqa: PLC0415

    allowed = set(known)
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:5]
            raise InputError(f"unknown {what} {name!r}; nearest: {', '.join(near) or 'none'}")


def first_match(rules: Rules, path: str, default: Any = None) -> Any:
    """Returns the value of the first rule whose regex is found in the path, else the default."""
    return next((value for pattern, value in rules if re.search(pattern, path)), default)


def require_regex(pattern: str) -> None:
    """Refuses a pattern that is no regular expression.

    Raises:
        InputError: the pattern, and what is wrong with it.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"rule {pattern!r} is not a regular expression: {error}") from None


def require_used(rules: Rules, paths: Iterable[str]) -> None:
    """Refuses rules that match none of the paths, and patterns that are no regex.

    Raises:
        InputError: the pattern, and some of the paths it could have matched.
    """
    paths = list(paths)
    for pattern, _ in rules:
        require_regex(pattern)
        if not any(re.search(pattern, path) for path in paths):
            shown = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
            raise InputError(f"rule {pattern!r} matches no layer; the layers are {shown}")

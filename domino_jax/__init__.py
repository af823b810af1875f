"""Finds, trains and exports layer-wise N:M sparse networks (DominoSearch) in JAX.

    import domino_jax as dj

    layers = dj.find_layers(apply, params, inputs, m=16)
    search = dj.domino(layers, budget=0.125)
    state = search.init(params)
    ...  # train at dj.hard_mask(params, layers, state.n), and every so often vote:
    state = search.update(state, params)
    scheme = dj.scheme_of(layers, state)

N is the number of weights kept of every M consecutive input weights; N == M is dense.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domino_jax.public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the public names, and with them JAX, when the first is asked for: not for --help."""
    public = import_module("domino_jax.public")
    if name == "__all__" or name in public.__all__:
        return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the public names, for `dir` and completion."""
    public = import_module("domino_jax.public")
    return sorted([*globals(), *public.__all__])

"""A Flax NNX module as a pure function of nested dicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core import paths
from domino_jax.core.errors import InputError

_STATS = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))
Call = Callable[[Any, Any, nnx.Rngs], Any]


def with_inputs(module: Any, inputs: Any, rngs: nnx.Rngs) -> Any:
    """Calls a module with the inputs alone; its own random streams are seeded anew."""
    del rngs
    return module(inputs)


def functional(
    module: nnx.Module, call: Call = with_inputs
) -> tuple[Callable[..., tuple[Any, Any]], Any, Any]:
    """Splits a module into `apply`, `params` and `stats`; see `domino_jax.models.from_nnx`.

    Returns:
        `apply(params, stats, inputs, *, train, key) -> (outputs, stats)`, the values of all
        `nnx.Param` and those of every other variable but the random streams. List members have
        integer keys.

    Raises:
        InputError: not an NNX module; when called: `key` is missing, or the call has added or
            removed variables.
    """
    if not isinstance(module, nnx.Module):
        raise InputError(f"expected a flax.nnx.Module, got {type(module).__name__}")
    graph, params, *rest = nnx.split(module, nnx.Param, nnx.RngState, _STATS)
    streams, stats = rest
    streams = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(streams)
    )

    def apply(
        params: Any, stats: Any, inputs: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, Any]:
        seeded = _seed_streams(streams, key, train=train)
        called = nnx.merge(graph, params, seeded, stats)
        if train:
            called.train()
        else:
            called.eval()
        outputs = call(called, inputs, nnx.Rngs(jax.random.key(0) if key is None else key))
        new_stats = nnx.to_pure_dict(nnx.state(called, _STATS))
        _require_same_paths(stats, new_stats)
        return outputs, new_stats

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def _seed_streams(streams: Any, key: jax.Array | None, *, train: bool) -> Any:
    """Gives each random stream its own key, and a counter at zero."""
    leaves, treedef = jax.tree.flatten(streams)
    if not leaves:
        return streams
    if key is None:
        if train:
            raise InputError("the module draws random numbers in training: key must not be None")
        key = jax.random.key(0)
    elif not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)

    def fresh(index: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.fold_in(key, index), leaf.shape)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.unflatten(treedef, [fresh(index, leaf) for index, leaf in enumerate(leaves)])


def _require_same_paths(old: Any, new: Any) -> None:
    """Refuses a forward pass that adds or removes variables: a step could not feed them back."""
    changed = sorted(paths.leaves_by_path(old).keys() ^ paths.leaves_by_path(new).keys())
    if changed:
        raise InputError(f"the module's call adds or removes variables: {', '.join(changed)}")

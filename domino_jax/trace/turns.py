"""One run over all batches in which each layer changes when its turn comes.

The program of a loss is run for all batches side by side, up to the next product with a layer. By
what its inputs are then, the layer becomes another, and what follows is computed with that. A scan
over a stack is run pass by pass. So each layer sees what the layers before it became, and the whole
costs one forward pass. What of the program no layer waits for any more is not run.

A layer that has several products, or one in a loop or a branch, is not all seen when its turn
comes: its statistics take a pass over the batches of their own.

Letters: as in `sites`; K inputs of a layer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import Axes, with_slice
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.trace import side_by_side, views
from domino_jax.trace.adding import Loss
from domino_jax.trace.example import (
    arrays_by_path,
    batch_shapes,
    is_array,
    one_example,
    require_alike,
)
from domino_jax.trace.side_by_side import Cell, Hooks, Made, Seen
from domino_jax.trace.sites import Site, sites_of
from domino_jax.trace.taps import Statistics, layer_tap
from domino_jax.trace.values import INPUT
from domino_jax.trace.walk import walk

Params = TypeVar("Params")
# (the parameter as it is, a layer of it, its statistics with H or why there are none) -> the layer,
# in the shape of the parameter with stack axes of 1; None leaves it as it is.
Turn = Callable[[jax.Array, LayerSpec, Statistics | str], jax.Array | None]


class _Finished(Exception):  # noqa: N818 (no error)
    """No layer is left."""


def change_in_turn(
    loss: Loss, params: Params, batches: Iterable[Any], layers: Iterable[LayerSpec], turn: Turn
) -> Params:
    """Lets each layer change when its turn comes; see the module.

    Args:
        loss: (params, batch) -> mean loss over the examples; only what goes into the products
            counts, so that any number made of the outputs will do.
        params: of the network.
        batches: leaves [B, ...], of one shape; at least one.
        layers: those that change, each of a convolution or matrix product.
        turn: what a layer becomes; the gradients among its statistics are 0.

    Returns:
        params with the layers as they became.

    Raises:
        InputError: there is no batch, the loss is not one number, or params lack a layer.
    """
    layers = tuple(layers)
    batches = list(batches)
    if not batches:
        raise InputError("tap: expected at least one batch, got none")
    shapes = batch_shapes(batches[0])
    for batch in batches:
        require_alike(batch, shapes)
    examples = len(batches) * shapes[0][0]
    given = leaves_by_path(params)
    weights = {layer.path: given[layer.path] for layer in layers}
    left = {(layer.path, layer.index or 0): layer for layer in layers}
    # Traced for the first layer that asks for it.
    tapped = cache(lambda: layer_tap(loss, params, batches, layers, gradients=False))

    def change(layer: LayerSpec, own: Statistics | str) -> None:
        w, index = weights[layer.path], layer.index or 0
        made = turn(w, layer, own)
        if made is not None:
            weights[layer.path] = with_slice(w, made, index, _roles(layer))
        del left[layer.path, index]

    def ask(layers: Iterable[LayerSpec]) -> None:
        """Gives layers their turn by passes over the batches of their own."""
        for layer in list(layers):
            change(layer, tapped()(replace_leaves(params, weights), layer))

    def meet(site: Site, is_looped: bool, see: Callable[[], Seen]) -> None:
        numbers = _slices(site, given[site.path].shape)
        own = [left.get((site.path, number)) for number in numbers]
        if any(own):
            is_whole = _is_whole(site, given[site.path].shape) and len({*numbers}) == len(numbers)
            if is_looped or site.path not in alone or not is_whole:
                ask(dict.fromkeys(layer for layer in own if layer is not None))
            else:
                _change_each(own, site, see(), examples, change)
        if not left:
            raise _Finished

    def meet_whole(fact: Any) -> None:
        ask(layer for (path, _), layer in left.items() if path == fact.path)

    jaxpr, cells, interpreter, facts = _program(loss, params, batches, layers, weights)
    of_path = {path: [fact for fact in facts if fact.path == path] for path in weights}
    alone = {path for path, own in of_path.items() if len(own) == 1}
    hooks = Hooks(interpreter, lambda fact: fact.path in weights, meet, meet_whole, {})
    with suppress(_Finished):
        side_by_side.run(jaxpr, cells, hooks)
    ask(left.values())  # in no product of the loss
    return replace_leaves(params, weights)


def _program(
    loss: Loss,
    params: Any,
    batches: Sequence[Any],
    layers: Sequence[LayerSpec],
    weights: Mapping[str, jax.Array],
) -> tuple[Any, list[Cell], Any, Sequence[Any]]:
    """Returns the program of the loss, its operands, and what it does with the layers."""
    jaxpr, _ = one_example(loss, params, batches[0], batched=False)
    of_path = {layer.path: layer for layer in layers}
    given = leaves_by_path(params)
    cells = [
        Cell((views.whole(path, leaf.shape),), made=_parameter(weights, path))
        if path in of_path
        else Cell(frozenset({path}), given[path])
        for path, leaf in arrays_by_path(params).items()
    ]
    leaves = [[x for x in jax.tree.leaves(batch) if is_array(x)] for batch in batches]
    cells += [Cell(INPUT, each=each) for each in zip(*leaves, strict=True)]
    interpreter = sites_of(of_path)
    return jaxpr, cells, interpreter, walk(jaxpr, [cell.value for cell in cells], interpreter)[1]


def _parameter(weights: Mapping[str, jax.Array], path: str) -> Made:
    return Made(lambda memo: [weights[path]], 0)


def _change_each(
    own: Sequence[LayerSpec | None],
    site: Site,
    seen: Seen,
    examples: int,
    change: Callable[[LayerSpec, Statistics], None],
) -> None:
    """Lets the layers of a site change, each by its slice of what the site sees."""
    order = np.argsort(site.inputs)
    for layer, products in zip(own, seen.products, strict=True):
        if layer is not None:
            h = products[:, order][:, :, order] / seen.rows
            squares = jnp.diagonal(h, axis1=1, axis2=2)
            outputs = len(site.outputs)
            rows = jnp.full(outputs, seen.rows / examples)
            change(layer, Statistics(h, squares, jnp.zeros(outputs), rows))


def _slices(site: Site, shape: tuple[int, ...]) -> list[int]:
    """Lists the slices that a site takes side by side, numbered row-major over the stack."""
    if not site.stack:
        return [0]
    sizes = [shape[axis] for axis in site.stack]
    return np.ravel_multi_index(list(site.stack.values()), sizes).tolist()


def _is_whole(site: Site, shape: tuple[int, ...]) -> bool:
    """Says whether a product takes all inputs and outputs of its layer, each once."""
    size = prod(size for axis, size in enumerate(shape) if axis not in site.stack)
    inputs, outputs = (np.unique(places) for places in (site.inputs, site.outputs))
    each_once = len(inputs) == len(site.inputs) and len(outputs) == len(site.outputs)
    return each_once and len(inputs) * len(outputs) == size


def _roles(layer: LayerSpec) -> Axes:
    if layer.roles is None:
        raise InputError(f"{layer.name}: expected a layer of a product, got one without")
    return layer.roles

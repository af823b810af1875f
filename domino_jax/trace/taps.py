"""Statistics of what each layer's products see, of any network, from the trace of its loss.

A layer's product is y = Wᵀx at each row: at each example and, where there are some, each token or
position of a patch. H is the mean of x xᵀ, and g the gradient of an example's loss by y. Half of
rows · E[g²] · δᵀHδ is what the loss is expected to rise by when the weights δ of an output go
(Hassibi and Stork 1993; Martens and Grosse 2015, K-FAC).

Letters: G feature groups of a convolution (else 1), K inputs of an output (the window, then the
input axes, flattened), O outputs, B examples.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, counted
from domino_jax.core.paths import require_known
from domino_jax.trace.adding import Loss, Tapper, tapper
from domino_jax.trace.example import examples_in
from domino_jax.trace.slots import Sums

NOT_SEEN = "no example's loss depends on it"


class Statistics(NamedTuple):
    """Of one layer.

    Attributes:
        products: H, the mean of x xᵀ over all rows, [G, K, K]; None if it was not asked for.
        squares: its diagonal, E[x²], [G, K].
        gradients: mean over all rows of the squared gradient of an example's loss by each output,
            [O].
        rows: of one example, of all uses together, for each output, [O]; of a product that takes
            some of the inputs that share alone.
    """

    products: jax.Array | None
    squares: jax.Array
    gradients: jax.Array
    rows: jax.Array


class Taps(NamedTuple):
    """What was found.

    Attributes:
        statistics: name of a layer -> its statistics.
        untapped: name of a layer -> the reason why it has none.
    """

    statistics: Mapping[str, Statistics]
    untapped: Mapping[str, str]


def tap(
    loss: Loss,
    params: Any,
    batches: Iterable[Any],
    layers: Iterable[LayerSpec],
    *,
    products: bool = True,
    gradients: bool = True,
    only: Collection[str] | None = None,
) -> Taps:
    """Gathers the statistics of all layers in one pass over the batches.

    A layer without groups is tapped too. Parts of a weight that go into products of their own have
    statistics of their own: H is 0 between inputs of two parts, also where the results are added.
    Where a custom derivative rule has a product of a tapped weight inside, gradients go by the
    program that the rule stands for instead.

    Args:
        loss: (params, batch) -> mean loss over the examples, which do not depend on each other.
        params: of the network.
        batches: leaves [B, ...], of one shape.
        layers: as `find_layers` or `find_kernels` gives them.
        products: False leaves H out, K · K numbers a layer; its diagonal stays.
        gradients: False leaves the gradients at 0, which saves the pass back.
        only: names of the layers to tap; None: all convolutions and matrix products.

    Raises:
        InputError: there is no batch, the loss is not one number, `only` names no layer of a
            product, or params lack a layer.
    """
    wanted = _wanted(layers, only)
    ready, stream = _started(loss, params, batches, wanted, gradients)
    zeros = {path: ready.zeros(path, False, products) for path in ready.paths}
    sums, examples = _total(ready, params, stream, zeros, None)
    found: dict[str, Statistics] = {}
    for path in list(sums):
        own = _means(sums.pop(path), float(examples))
        for layer in wanted:
            if layer.path == path:
                found[layer.name] = own if layer.index is None else _slice(own, layer)
    seen = [layer.name for layer in wanted if layer.name in found and _is_seen(found[layer.name])]
    reasons = {layer.name: ready.reasons.get(layer.path, NOT_SEEN) for layer in wanted}
    return Taps(
        {name: found[name] for name in seen},
        {name: why for name, why in reasons.items() if name not in seen},
    )


def tap_each(
    loss: Loss,
    params: Any,
    batches: Sequence[Any],
    layers: Iterable[LayerSpec],
    *,
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, Statistics | str]]:
    """Gathers the statistics of one layer after another: one H in memory, a pass for each layer.

    Arguments and errors are those of `tap`.

    Yields:
        The name of a layer, and its statistics, or the reason why it has none.
    """
    wanted = _wanted(layers, only)
    tap_layer = layer_tap(loss, params, batches, wanted)
    for layer in wanted:
        yield layer.name, tap_layer(params, layer)


def layer_tap(
    loss: Loss,
    params: Any,
    batches: Sequence[Any],
    layers: Iterable[LayerSpec],
    *,
    gradients: bool = True,
) -> Callable[[Any, LayerSpec], Statistics | str]:
    """Makes (params, layer) -> its statistics with H, or the reason why there are none.

    The loss is traced once, so the weights may change from layer to layer. Arguments and errors are
    those of `tap`.
    """
    ready, _ = _started(loss, params, batches, counted(layers), gradients)

    def tap_layer(params: Any, layer: LayerSpec) -> Statistics | str:
        path = layer.path
        if path in ready.reasons:
            return ready.reasons[path]
        zeros = {path: ready.zeros(path, True, True)}
        sums, examples = _total(ready, params, batches, zeros, jnp.int32(layer.index or 0))
        own = _means(sums[path], float(examples))
        return own if _is_seen(own) else NOT_SEEN

    return tap_layer


def _wanted(layers: Iterable[LayerSpec], only: Collection[str] | None) -> list[LayerSpec]:
    of_products = counted(layers)
    if only is not None:
        require_known(only, [layer.name for layer in of_products], what="layer to tap")
    return [layer for layer in of_products if only is None or layer.name in only]


def _started(
    loss: Loss,
    params: Any,
    batches: Iterable[Any],
    wanted: Sequence[LayerSpec],
    gradients: bool,
) -> tuple[Tapper, Iterator[Any]]:
    """Makes the loss ready by the first batch; hands all of them back."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise InputError("tap: expected at least one batch, got none")
    return tapper(loss, params, first, wanted, gradients=gradients), chain([first], stream)


def _total(
    ready: Tapper,
    params: Any,
    batches: Iterable[Any],
    sums: dict[str, Sums],
    chosen: jax.Array | None,
) -> tuple[dict[str, Sums], int]:
    """Adds up all batches, and counts their examples."""
    examples = 0
    for batch in batches:
        # Waited for: of batches that are under way at once each would take memory of its own.
        sums = jax.block_until_ready(ready.add(sums, params, batch, chosen))
        examples += examples_in(batch)
    return sums, examples


def _is_seen(own: Statistics) -> bool:
    return bool(own.rows.max() > 0)


@jax.jit
def _means(sums: Sums, examples: float) -> Statistics:
    """Makes means of the sums of a parameter; in front its stack axes, if they are of all slices.

    Parts of a weight may have different rows.
    """
    rows, seen = jnp.maximum(sums.rows, 1.0), jnp.maximum(sums.seen, 1.0)
    h, pairs = sums.products, jnp.sqrt(rows[..., :, None] * rows[..., None, :])
    return Statistics(
        products=None if h is None else h / pairs,
        squares=sums.squares / rows,
        gradients=sums.gradients / seen,
        rows=sums.whole / examples,
    )


def _slice(of_all: Statistics, layer: LayerSpec) -> Statistics:
    """Takes the statistics of one slice of a stacked parameter."""
    stacked = len(layer.roles.stack) if layer.roles else 0
    return _row(of_all, layer.index or 0, stacked)


@partial(jax.jit, static_argnums=2)
def _row(of_all: Statistics, index: int, stacked: int) -> Statistics:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[stacked:])[index], of_all)

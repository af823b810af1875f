"""Sums of what the products of a loss see, batch by batch; the loss is traced and compiled once.

Letters: as in `taps`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import require_known
from domino_jax.core.ranks import at_least_float32
from domino_jax.trace import views
from domino_jax.trace.example import (
    arrays_by_path,
    batch_shapes,
    is_array,
    one_example,
    require_alike,
)
from domino_jax.trace.rebuild import Plan, run
from domino_jax.trace.sites import Refused, sites_of
from domino_jax.trace.slots import Held, Slot, Sums
from domino_jax.trace.values import INPUT, views_of
from domino_jax.trace.walk import Value, walk

Loss = Callable[[Any, Any], jax.Array]
NOT_FOUND = "no product with it was found in the loss"


class _Traced(NamedTuple):
    """A loss as a program, and what its operands are.

    Attributes:
        jaxpr: of the array leaves of params and batch.
        values: of these operands, for `plan.interpreter`.
        of_params: how many are those of params.
        plan: what to tap.
        layers: path -> a layer of that parameter.
        shapes: path -> shape and dtype of the parameter.
    """

    jaxpr: Any
    values: Sequence[Value]
    of_params: int
    plan: Plan
    layers: Mapping[str, LayerSpec]
    shapes: Mapping[str, jax.ShapeDtypeStruct]


class Tapper(NamedTuple):
    """A loss made ready.

    Attributes:
        paths: parameters that can be tapped.
        reasons: path -> why the others cannot.
        zeros: (path, whether of one slice, whether with H) -> sums of nothing.
        add: (path -> sums, params, batch, number of a slice or None) -> sums with those of the
            batch; the old ones are given up.
    """

    paths: Sequence[str]
    reasons: Mapping[str, str]
    zeros: Callable[[str, bool, bool], Sums]
    add: Callable[[dict[str, Sums], Any, Any, jax.Array | None], dict[str, Sums]]


def tapper(
    loss: Loss, params: Any, batch: Any, layers: Iterable[LayerSpec], *, gradients: bool = True
) -> Tapper:
    """Traces a loss, and finds out which parameters can be tapped.

    Args:
        loss: as for `taps.tap`, and so are params and layers.
        params: as above.
        batch: what all batches look like.
        layers: as above.
        gradients: False leaves the gradients out: sums of 0, and no pass back.

    Raises:
        InputError: the loss is not one number, or params lack a layer.
    """
    of_path = {layer.path: layer for layer in layers}
    arrays = arrays_by_path(params)
    require_known(of_path, list(arrays), what="parameter")
    jaxpr, of_params = one_example(loss, params, batch, batched=False)
    shapes = [aval.shape for aval in jaxpr.out_avals]
    if shapes != [()]:
        raise InputError(f"tap: expected a loss that is one number, got results of shapes {shapes}")
    first = batch_shapes(batch)
    interpreter = sites_of(of_path)
    values: list[Value] = [
        (views.whole(path, leaf.shape),) if path in of_path else frozenset({path})
        for path, leaf in arrays.items()
    ]
    values += [INPUT] * (len(jaxpr.jaxpr.invars) - of_params)
    paths, reasons = _sorted(of_path, walk(jaxpr, values, interpreter)[1])
    traced = _Traced(jaxpr, values, of_params, Plan(interpreter, paths), of_path, arrays)
    adding = partial(_add if gradients else _add_inputs, traced)
    compiled = jax.jit(adding, donate_argnums=0)

    def add(
        before: dict[str, Sums], params: Any, batch: Any, chosen: jax.Array | None
    ) -> dict[str, Sums]:
        require_alike(batch, first)
        operands = [leaf for leaf in jax.tree.leaves((params, batch)) if is_array(leaf)]
        return compiled(before, operands, chosen)

    return Tapper(list(paths), reasons, partial(_zeros, traced), add)


def _sorted(paths: Iterable[str], facts: Sequence[Any]) -> tuple[dict[str, bool], dict[str, str]]:
    """Returns path -> whether its weak products count, and path -> why it is not tapped.

    Products with what does not depend on the inputs count only where there are no others.
    """
    tapped, reasons = {}, {}
    for path in paths:
        own = [fact for fact in facts if fact.path == path]
        weak = all(fact.weak for fact in own)
        why = [f.reason for f in own if isinstance(f, Refused) and f.weak is weak]
        if own and not why:
            tapped[path] = weak
        else:
            reasons[path] = why[0] if why else NOT_FOUND
    return tapped, reasons


def _roles(traced: _Traced, path: str) -> Axes:
    roles = traced.layers[path].roles
    if roles is None:
        raise InputError(f"{path}: expected a layer of a product, got one without")
    return roles


def _zeros(traced: _Traced, path: str, one_slice: bool, products: bool) -> Sums:
    axes, leaf = _roles(traced, path), traced.shapes[path]
    sizes = [
        prod(leaf.shape[a] for a in part) for part in (axes.window + axes.inputs, axes.outputs)
    ]
    k, o = sizes
    stack = [] if one_slice else [leaf.shape[a] for a in axes.stack]
    groups, dtype = traced.layers[path].convolution_groups, at_least_float32(leaf.dtype)
    squares, rows = (jnp.zeros((*stack, groups, k), dtype) for _ in range(2))
    by_output = (jnp.zeros((*stack, o), dtype) for _ in range(3))
    h = jnp.zeros((*stack, groups, k, k), dtype) if products else None
    return Sums(h, squares, rows, *by_output)


def _add(
    traced: _Traced, before: dict[str, Sums], operands: Sequence[Any], chosen: jax.Array | None
) -> dict[str, Sums]:
    """Adds the sums of a batch: gradients of accumulators that its products seem to depend on."""
    plan = traced.plan._replace(paths={path: traced.plan.paths[path] for path in before})

    def slot(path: str, sums: Sums) -> Slot:
        stack = _roles(traced, path).stack
        axes = stack if chosen is None else ()
        return Slot(sums, axes, traced.shapes[path].shape, stack, chosen, {})

    def total(zeros: dict[str, Sums]) -> jax.Array:
        helds = []
        for array, value in zip(operands, traced.values, strict=True):
            paths = [view.path for view in views_of([value]) if view.path in zeros]
            helds.append(Held(array, value, {path: slot(path, zeros[path]) for path in paths}))
        return run(traced.jaxpr, helds, plan)[0].array

    sums = jax.grad(total)(jax.tree.map(jnp.zeros_like, before))
    # The loss is a mean over the examples: the gradient of one example's loss is so much larger.
    scale = float(operands[traced.of_params].shape[0]) ** 2
    return {
        path: jax.tree.map(jnp.add, before[path], own._replace(gradients=own.gradients * scale))
        for path, own in sums.items()
    }


def _add_inputs(
    traced: _Traced, before: dict[str, Sums], operands: Sequence[Any], chosen: jax.Array | None
) -> dict[str, Sums]:
    """Adds the sums of inputs alone: of the pass back nothing is left that any result needs."""
    return {
        path: own._replace(gradients=before[path].gradients)
        for path, own in _add(traced, before, operands, chosen).items()
    }

"""What a product sees of a weight: the rows of inputs that meet it, and which weights they meet.

A product has one of many forms: x @ w, an einsum over heads, a convolution, a batch of matrices, a
part of a weight, several weights joined. A `Site` brings each to rows of inputs times a matrix.

Letters: V slices of a stack that one product takes side by side, G feature groups of a convolution,
R rows (examples x positions), k inputs that it sums over (window x inputs), o outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.layers import LayerSpec
from domino_jax.trace.forms import FORMS, JOINED, Form, Reads, cuts
from domino_jax.trace.products import Use
from domino_jax.trace.slices import split
from domino_jax.trace.values import Outcome, views_of
from domino_jax.trace.views import Piece, View
from domino_jax.trace.walk import Facts, Interpreter, Value
from domino_jax.trace.weights import WEIGHTS

UNKNOWN = "which part of it meets the inputs is known only at run time"
OWN_INPUTS = "each of its outputs has inputs of its own"
OTHER_AXES = "used along different input axes"
REPEATED = "repeated along its inputs"
LOOPED = "a loop runs over its inputs or outputs"
IN_WHILE = "in a while loop"
GROUPS = "the groups of its convolution are not in order"


@dataclass(frozen=True)
class Site:
    """One weight in one product, its loops not counted.

    Attributes:
        path: of the parameter.
        weak: the product is with something that does not depend on the inputs.
        side: which operand the weight is.
        stack: stack axis -> place of each slice along it, [V] (of one slice if loops choose it).
        inputs: place of each input among the window and input axes of the parameter, [k].
        outputs: place of each output among its output axes, [o].
        reads: the rows that meet it.
    """

    path: str
    weak: bool
    side: int
    stack: Mapping[int, np.ndarray]
    inputs: np.ndarray
    outputs: np.ndarray
    reads: Reads


class Refused(NamedTuple):
    """A weight in a product of which no site can be made; `weak` is as that of a site."""

    path: str
    weak: bool
    reason: str


def sites_of(layers: Mapping[str, LayerSpec]) -> Interpreter:
    """Makes the interpreter whose facts are `Site` and `Refused`; its values are those of weights.

    Args:
        layers: path -> a layer of that parameter.
    """
    return WEIGHTS._replace(
        step=partial(_step, layers),
        repeat=_repeat,
        either=lambda branches: [fact for facts in branches for fact in facts],
    )


def _step(layers: Mapping[str, LayerSpec], eqn: Any, values: list[Value]) -> Outcome:
    results, facts = WEIGHTS.step(eqn, values)
    uses = [fact for fact in facts if isinstance(fact, Use) and fact.roles]
    found: Facts = []
    for use in uses:
        layer = layers.get(use.view.path)
        if layer is not None and layer.roles is not None:
            found.append(_site(eqn, values, use, layer, layer.roles))
    if eqn.primitive.name == "dynamic_slice":
        results = [_started(values, result, layers) for result in results]
    return results, found


def _started(values: Sequence[Value], result: Value, layers: Mapping[str, LayerSpec]) -> Value:
    """Keeps the offsets that were known: where a slice of a stack starts is told at run time."""
    if not isinstance(result, tuple):
        return result
    made = []
    for view in result:
        before = next(v for v in views_of(values) if v.path == view.path)
        roles = layers[view.path].roles if view.path in layers else None
        stack = roles.stack if roles else ()
        offset = [before.offset[a] if a in stack else at for a, at in enumerate(view.offset)]
        made.append(replace(view, offset=tuple(offset)))
    return tuple(made)


def _repeat(facts: Facts, times: int | None, backwards: bool) -> Facts:
    del backwards
    if times is not None:
        return facts
    return [Refused(fact.path, fact.weak, IN_WHILE) for fact in facts]


def _site(eqn: Any, values: Sequence[Value], use: Use, layer: LayerSpec, axes: Axes) -> Any:
    view = use.view
    refused = partial(Refused, view.path, use.weak)
    side = next(i for i, v in enumerate(values) if isinstance(v, tuple) and view in v)
    parts = cuts(values[side], eqn.invars[side].aval.shape)
    if parts is None or eqn.primitive.name not in FORMS:
        return refused(JOINED if parts is None else f"in {eqn.primitive.name}")
    form = FORMS[eqn.primitive.name](eqn, view, side, parts[values[side].index(view)])
    if isinstance(form, str):
        return refused(form)
    form = split(form, axes.stack)
    reason = _why_not(view, axes, form, layer.convolution_groups)
    if reason:
        return refused(reason)
    along = axes.window + axes.inputs
    return Site(
        path=view.path,
        weak=use.weak,
        side=side,
        stack={axis: _places(view, form.slices, (axis,)) for axis in axes.stack},
        inputs=_places(view, form.inputs, along),
        outputs=_places(view, form.outputs, axes.outputs),
        reads=form.reads,
    )


def _why_not(view: View, axes: Axes, form: Form, groups: int) -> str:
    """Says why a product cannot be read as rows times a matrix, '' if it can."""

    def of(pieces: Sequence[Piece]) -> set[int]:
        return {piece.axis for piece in pieces if piece.size > 1}

    offsets = zip(view.offset, view.leaf, strict=True)
    outputs = _places(view, form.outputs, axes.outputs)
    in_order = np.array_equal(outputs, np.arange(math.prod(view.leaf[a] for a in axes.outputs)))
    faults = {
        UNKNOWN: any(at is None and size > 1 for at, size in offsets),
        LOOPED: of(view.stack) - set(axes.stack),
        REPEATED: -1 in of(form.inputs),
        OWN_INPUTS: of(form.slices) - {*axes.stack, -1},
        OTHER_AXES: of(form.inputs) - {*axes.window, *axes.inputs}
        or of(form.outputs) - {*axes.outputs, -1},
        GROUPS: form.groups != groups or (groups > 1 and not in_order),
    }
    return next((reason for reason, fault in faults.items() if fault), "")


def _places(view: View, pieces: Sequence[Piece], axes: Sequence[int]) -> np.ndarray:
    """Lists where the positions of some pieces, row-major, lie along axes of the parameter.

    Returns:
        [positions], numbers row-major over the axes.
    """
    count = math.prod(piece.size for piece in pieces)
    digits = np.indices([piece.size for piece in pieces]).reshape(len(pieces), count)
    flat = np.zeros(count, np.int64)
    for axis in axes:
        own = [d * p.stride for d, p in zip(digits, pieces, strict=True) if p.axis == axis]
        flat = flat * view.leaf[axis] + (view.offset[axis] or 0) + sum(own, np.zeros_like(flat))
    return flat

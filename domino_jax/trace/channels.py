"""Axes that can only be permuted together: found by following each axis through the trace.

    up [D, F]  ──  + b [F], relu, * scale [F]  ──  down [F, O]          {up 1, b 0, scale 0, down 0}

A dim of an array is a node; so is an axis of a parameter. Where two dims must have one order
(operands of an elementwise operation, what a product sums over) their nodes are joined. Where the
order of a dim matters (a window slides over it, it is cut, sorted or reshaped, it is an axis of the
inputs or of the results), its node is joined with `FIXED`. Copies along a dim have any order. What
is joined with nothing fixed in the end can be permuted, all of it together, and the network
computes what it did.

What is not known here fixes all dims of its operands: a missing rule loses channels, no results.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from domino_jax.trace import elementwise
from domino_jax.trace.example import Apply, arrays_by_path, one_example
from domino_jax.trace.walk import Facts, Interpreter, walk

FIXED = 0
ANY = None  # the same values all along a dim
Channels = dict[str, tuple[int, ...]]
_Dims = tuple[int | None, ...]

_ELEMENTWISE = (
    elementwise.IDENTITY
    | elementwise.ZERO_AT_ZERO
    | elementwise.OTHERS
    | {"eq", "ge", "gt", "is_finite", "le", "lt", "ne", "and", "or", "not", "xor"}
)
_REDUCTIONS = frozenset(
    {"reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"}
)


class _Joined:
    """Nodes and which of them are one: a disjoint-set forest; FIXED stays a root."""

    def __init__(self) -> None:
        self.parents = [FIXED]

    def new(self) -> int:
        self.parents.append(len(self.parents))
        return len(self.parents) - 1

    def root(self, node: int) -> int:
        while self.parents[node] != node:
            node = self.parents[node]
        return node

    def join(self, nodes: Sequence[int | None]) -> int | None:
        """Joins nodes, of one dim each; copies take part in nothing."""
        roots = sorted({self.root(node) for node in nodes if node is not ANY})
        for root in roots[1:]:
            self.parents[root] = roots[0]
        return roots[0] if roots else ANY


def find_channels(
    apply: Apply, params: Any, inputs: Any, *, batched: Any = True
) -> tuple[Channels, ...]:
    """Finds the axes of parameters that may be permuted together without changing the results.

    Args:
        apply: `apply(params, inputs)`; it is traced, not run.
        params: pytree of arrays or ShapeDtypeStructs: whatever is permuted along, running
            statistics of norms included.
        inputs: pytree of arrays or ShapeDtypeStructs; the order of their axes stays.
        batched: as for `find_kernels`.

    Returns:
        For each group of channels: path -> its axes, in the order of the parameters.

    Raises:
        InputError: as `find_kernels`.
    """
    jaxpr, of_params = one_example(apply, params, inputs, batched)
    joined = _Joined()
    axes: list[tuple[int, str, int]] = []
    values: list[_Dims] = []
    for path, leaf in arrays_by_path(params).items():
        nodes = tuple(joined.new() for _ in leaf.shape)
        axes += [(node, path, axis) for axis, node in enumerate(nodes)]
        values.append(nodes)
    values += [(FIXED,) * len(var.aval.shape) for var in jaxpr.jaxpr.invars[of_params:]]
    results, _ = walk(jaxpr, values, _interpreter(joined))
    for dims in results:
        joined.join([FIXED, *dims])
    groups: dict[int, Channels] = {}
    for node, path, axis in axes:
        root = joined.root(node)
        if root != FIXED:
            group = groups.setdefault(root, {})
            group[path] = (*group.get(path, ()), axis)
    return tuple(groups.values())


def _interpreter(joined: _Joined) -> Interpreter:
    def constant(value: Any) -> _Dims:
        return tuple(FIXED if size > 1 else ANY for size in jnp.shape(value))

    def step(eqn: Any, values: list[_Dims]) -> tuple[list[_Dims], Facts]:
        rule = _RULES.get(eqn.primitive.name)
        return ([rule(joined, eqn, values)] if rule else _fixed(joined, eqn, values)), []

    def join(values: Sequence[_Dims], by: Any, place: str) -> tuple[_Dims, Facts]:
        del by, place
        return tuple(joined.join(nodes) for nodes in zip(*values, strict=True)), []

    def rows(value: _Dims, place: str) -> tuple[_Dims, Facts]:
        del place
        return (FIXED, *value), []

    def row(value: _Dims) -> _Dims:
        joined.join([FIXED, value[0]])
        return value[1:]

    return Interpreter(constant, step, join, row, rows, lambda facts, *_: facts, lambda facts: [])


def _fixed(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> list[_Dims]:
    """Of an operation that is not known the order of everything matters."""
    joined.join([FIXED, *(node for dims in values for node in dims)])
    return [(FIXED,) * len(_shape(var)) for var in eqn.outvars]


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(getattr(var.aval, "shape", ()))


def _elementwise(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    """Operands have the shape of the result, or are scalars."""
    rank = len(_shape(eqn.outvars[0]))
    full = [dims for dims in values if len(dims) == rank]
    return tuple(joined.join(nodes) for nodes in zip(*full, strict=True))


def _reduce(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    del joined
    return tuple(node for d, node in enumerate(values[0]) if d not in eqn.params["axes"])


def _transpose(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    del joined
    return tuple(values[0][d] for d in eqn.params["permutation"])


def _squeeze(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    del joined
    return tuple(node for d, node in enumerate(values[0]) if d not in eqn.params["dimensions"])


def _broadcast(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    del joined
    dims: list[int | None] = [ANY] * len(eqn.params["shape"])
    where = eqn.params["broadcast_dimensions"]
    for node, target, size in zip(values[0], where, _shape(eqn.invars[0]), strict=True):
        dims[target] = node if size == eqn.params["shape"][target] else ANY
    return tuple(dims)


def _reshape(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    """A dim goes on where one of its size has as many positions in front of it."""
    before, after = _shape(eqn.invars[0]), tuple(eqn.params["new_sizes"])
    if eqn.params.get("dimensions") is not None:
        return _fixed(joined, eqn, values)[0]
    there = {(math.prod(after[:d]), size): d for d, size in enumerate(after) if size > 1}
    dims: list[int | None] = [ANY if size == 1 else FIXED for size in after]
    for d, (node, size) in enumerate(zip(values[0], before, strict=True)):
        target = there.get((math.prod(before[:d]), size))
        if target is not None:
            dims[target] = node
        else:
            joined.join([FIXED, node])
    return tuple(dims)


def _gather(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    """Dims that are taken whole go on, as the features of an embedding do."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [d for d in range(len(sizes)) if d not in gone]
    whole = [d for d in kept if sizes[d] == _shape(eqn.invars[0])[d]]
    dims: list[int | None] = [FIXED] * len(_shape(eqn.outvars[0]))
    for d, target in zip(kept, numbers.offset_dims, strict=True):
        dims[target] = values[0][d] if d in whole else FIXED
    joined.join([FIXED, *values[1], *(n for d, n in enumerate(values[0]) if d not in whole)])
    return tuple(dims)


def _some(numbers: Callable[[Any], Sequence[int]]) -> Callable[..., _Dims]:
    """Makes the rule of operations for which the order of some dims matters."""

    def rule(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
        fixed = set(numbers(eqn))
        joined.join([FIXED, *(dims[d] for dims in values for d in fixed if d < len(dims))])
        same = [dims for dims in values if len(dims) == len(_shape(eqn.outvars[0]))]
        kept = [joined.join(nodes) for nodes in zip(*same, strict=True)]
        return tuple(FIXED if d in fixed else node for d, node in enumerate(kept))

    return rule


def _resized(eqn: Any) -> list[int]:
    """Lists the dims of which a slice or a padding makes something else."""
    sizes = zip(_shape(eqn.invars[0]), _shape(eqn.outvars[0]), strict=True)
    return [d for d, (before, after) in enumerate(sizes) if before != after]


def _padded(eqn: Any) -> list[int]:
    return [d for d, edges in enumerate(eqn.params["padding_config"]) if any(edges)]


def _windowed(eqn: Any) -> list[int]:
    return [d for d, size in enumerate(eqn.params["window_dimensions"]) if size > 1]


def _product(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    contracting, batch = eqn.params["dimension_numbers"]
    for pair in zip(*contracting, strict=True):
        joined.join([values[side][d] for side, d in enumerate(pair)])
    both = [
        joined.join([values[side][d] for side, d in enumerate(pair)])
        for pair in zip(*batch, strict=True)
    ]
    free = [
        node
        for side, dims in enumerate(values)
        for d, node in enumerate(dims)
        if d not in (*contracting[side], *batch[side])
    ]
    return (*both, *free)


def _convolution(joined: _Joined, eqn: Any, values: Sequence[_Dims]) -> _Dims:
    """Channels are followed; a depthwise kernel hands each of its own on."""
    inputs, kernel = values
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (_, features, *space), (outs, ins, *window) = numbers.lhs_spec, numbers.rhs_spec
    batch, made, *_ = numbers.out_spec
    joined.join([FIXED, *(inputs[d] for d in space), *(kernel[d] for d in window)])
    result: list[int | None] = [FIXED] * len(inputs)
    result[batch], result[made] = inputs[numbers.lhs_spec[0]], kernel[outs]
    channels, filters = _shape(eqn.invars[0])[features], _shape(eqn.invars[1])[outs]
    if eqn.params["batch_group_count"] > 1 or 1 < groups != channels or groups > filters:
        joined.join([FIXED, *inputs, *kernel])
    elif groups == 1:
        joined.join([inputs[features], kernel[ins]])
    elif filters == channels:  # one filter for each channel
        result[made] = joined.join([inputs[features], kernel[outs]])
    else:
        joined.join([FIXED, inputs[features], kernel[outs]])
    return tuple(result)


_RULES: Mapping[str, Callable[[_Joined, Any, Sequence[_Dims]], _Dims]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "broadcast_in_dim": _broadcast,
    "concatenate": _some(lambda eqn: [eqn.params["dimension"]]),
    "conv_general_dilated": _convolution,
    "cumsum": _some(lambda eqn: [eqn.params["axis"]]),
    "dot_general": _product,
    "dynamic_slice": _some(_resized),
    "gather": _gather,
    "pad": _some(_padded),
    "reduce_window_max": _some(_windowed),
    "reduce_window_min": _some(_windowed),
    "reduce_window_sum": _some(_windowed),
    "reshape": _reshape,
    "rev": _some(lambda eqn: eqn.params["dimensions"]),
    "slice": _some(_resized),
    "squeeze": _squeeze,
    "transpose": _transpose,
}

"""The products that a weight goes into, read from the dimension numbers of the primitive.

Letters: dims are those of the array that holds the weight, axes those of the parameter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from domino_jax.core.rules import DEPTHWISE
from domino_jax.trace.views import Dim, Piece, View, axes_of

Marked = list[tuple[Piece, str]]
NOT_SUMMED = "only in products that sum over none of its axes"


@dataclass(frozen=True, eq=False)
class Loop:
    """A scan, which equals itself alone.

    Attributes:
        backwards: it takes its rows from the last to the first.
    """

    backwards: bool


@dataclass(frozen=True)
class Use:
    """What happens to a parameter at one place of the trace.

    Attributes:
        view: of the parameter at that place.
        roles: per axis of the parameter 'stack', 'window', 'inputs' or 'outputs', '' where the
            product does not tell; () where there is no product.
        macs: weight products of one example.
        weak: a product with something that does not depend on the inputs.
        reason: why the parameter stays dense because of this use, '' if it need not.
        note: what a harmless use that is no product does: it keeps nothing dense, but where a
            parameter has no other use it says what the parameter is for.
        convolution_groups: feature groups of the convolution, those of a stack not counted.
        flipped: axes of the parameter that the product reads backwards.
        transposed: a convolution whose inputs are spread apart by zeros.
        apart: axes of the parameter along which it turned out to be several weights: experts.
        loops: the scans around it, the outermost first; uses in one scan share it.
    """

    view: View
    roles: tuple[str, ...] = ()
    macs: Fraction = Fraction(0)
    weak: bool = False
    reason: str = ""
    note: str = ""
    convolution_groups: int = 1
    flipped: frozenset[int] = frozenset()
    transposed: bool = False
    apart: frozenset[int] = frozenset()
    loops: tuple[Loop, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Unweighted:
    """A product that no parameter takes part in.

    Attributes:
        macs: of one example.
        constant: the array that `apply` closes over and that is one of its sides, as a person would
            name it; '' where both sides are activations.
        shape: of that array.
    """

    macs: Fraction
    constant: str = ""
    shape: tuple[int, ...] = ()


def merge_roles(first: str, second: str, size: int) -> str | None:
    """Returns the role of an axis of this size that has two roles, None where they disagree."""
    if not first or not second or first == second or size == 1:
        return first or second
    # Groups never cross the positions of either.
    return "outputs" if {first, second} == {"stack", "outputs"} else None


def count(eqn: Any) -> int:
    """Counts the multiply-adds of a product.

    Padding counts; zeros between inputs, and around inputs that are spread apart, do not.
    """
    left, right, result = (atom.aval.shape for atom in (*eqn.invars[:2], *eqn.outvars))
    numbers = eqn.params.get("dimension_numbers")
    if eqn.primitive.name == "conv_general_dilated":
        total = result[numbers.out_spec[0]] * math.prod(right[d] for d in numbers.rhs_spec[:2])
        for dim, (before, after, of_window) in enumerate(
            zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
        ):
            total *= _pairs(eqn.params, dim, left[before], result[after], right[of_window])
        return total
    numbers = numbers or eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    (contracting, _), _ = numbers
    return math.prod(result) * math.prod(left[d] for d in contracting)


def _pairs(params: Mapping[str, Any], dim: int, before: int, after: int, window: int) -> int:
    """Counts, along one dim, the pairs of a result and a place of its window that is no zero."""
    spread, stride = params["lhs_dilation"][dim], params["window_strides"][dim]
    if spread == 1:
        return after * window
    if stride == 1:  # each input meets each place once
        return before * window
    places = np.arange(window) * params["rhs_dilation"][dim] - params["padding"][dim][0]
    places = np.arange(after)[:, None] * stride + places
    is_inside = (places >= 0) & (places <= (before - 1) * spread)
    return int((is_inside & (places % spread == 0)).sum())


def dot(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of the weights on one side of `jax.lax.dot_general`."""
    contracting, batch = eqn.params["dimension_numbers"]
    stack = dict.fromkeys(batch[side], "stack")
    inputs = dict.fromkeys(contracting[side], "inputs")
    return [_use(view, _by_dim(view, stack | inputs), count(eqn)) for view in values[side]]


def ragged_dot(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of expert weights: the rows of the other operand are shared out among the groups."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    if side != 1 or not numbers.rhs_group_dimensions:
        return [Use(view, reason="goes into ragged_dot") for view in values[side]]
    stack = dict.fromkeys((*batch, *numbers.rhs_group_dimensions), "stack")
    inputs = dict.fromkeys(contracting, "inputs")
    return [_use(view, _by_dim(view, stack | inputs), count(eqn)) for view in values[1]]


def convolution(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of the kernels of a convolution."""
    if side != 1 or eqn.params["batch_group_count"] > 1:
        return [Use(view, reason=f"goes into {eqn.primitive.name}") for view in values[side]]
    return [_kernel_use(view, eqn) for view in values[1]]


def _kernel_use(view: View, eqn: Any) -> Use:
    outputs, inputs, *window = eqn.params["dimension_numbers"].rhs_spec
    stack, groups = stacked(view, outputs, eqn.params["feature_group_count"])
    marks: Marked = [(piece, "stack") for piece in stack]
    marks += [(piece, "outputs") for piece in view.dims[outputs][len(stack) :]]
    marks += [(piece, "inputs") for piece in view.dims[inputs]]
    marks += [(piece, "window") for d in window for piece in view.dims[d]]
    depthwise = groups > 1 and eqn.invars[1].aval.shape[inputs] == 1
    use = _use(view, marks, count(eqn), DEPTHWISE if depthwise else "")
    spread = any(dilation > 1 for dilation in eqn.params["lhs_dilation"])
    return replace(use, convolution_groups=groups, transposed=spread)


def stacked(view: View, outputs: int, groups: int) -> tuple[Dim, int]:
    """Finds the stack axis of a vmapped convolution: in front of the outputs, as feature groups.

        vmap:   kernel (S, H, W, I, O)  ->  (H, W, I, S·O) with S groups: a stack of S
        Keras:  kernel (H, W, C, 1)     ->  (H, W, 1, C·1) with C groups: one depthwise layer

    Both merge two axes into the outputs. But a vmapped kernel has an axis more than a convolution
    needs, and the one of Keras has not.
    """
    pieces, more = view.dims[outputs], len(axes_of(view)) - len(view.dims)
    taken = 0
    for i, piece in enumerate(pieces[:-1]):
        repeats = any(piece.axis == later.axis for later in pieces[i + 1 :])
        if more <= 0 or groups % piece.size or repeats:
            break
        # A copy of the kernel for each slice (axis -1) is no axis of the kernel.
        taken, groups, more = i + 1, groups // piece.size, more - (piece.axis >= 0)
    return pieces[:taken], groups


def _by_dim(view: View, roles: dict[int, str]) -> Marked:
    """Dims without a role are outputs; where there are none, the stacked ones are."""
    if len(roles) == len(view.dims):
        roles = {d: "outputs" if role == "stack" else role for d, role in roles.items()}
    return [(piece, roles.get(d, "outputs")) for d, dim in enumerate(view.dims) for piece in dim]


def _use(view: View, marks: Marked, total: int, reason: str = "") -> Use:
    """Gathers the roles of pieces to roles of axes; an axis cut in two may have two roles."""
    roles = [""] * len(view.leaf)
    reason = view.reason or reason
    kept = {piece.axis for piece, _ in marks}
    # A single index of an axis of which more is left, w.reshape(4, 4, 8)[1], is a cut, no stack.
    stack = [piece for piece in view.stack if piece.size > 1 or piece.axis not in kept]
    for piece, role in [*((piece, "stack") for piece in stack), *marks]:
        if piece.axis < 0:
            continue
        merged = merge_roles(roles[piece.axis], role, view.leaf[piece.axis])
        if merged is None:
            reason = reason or f"axis {piece.axis} is both {roles[piece.axis]} and {role}"
            # One dense layer, not one for each index.
            merged = "inputs" if {roles[piece.axis], role} == {"stack", "inputs"} else None
        roles[piece.axis] = merged or roles[piece.axis]
    if not any(piece.axis >= 0 and role in ("inputs", "window") for piece, role in marks):
        return Use(view, reason=view.reason, note=NOT_SUMMED)
    dims = [piece for dim in view.dims for piece in dim if piece.axis >= 0 and piece.size > 1]
    flipped = frozenset(piece.axis for piece in dims if piece.stride < 0)
    return Use(view, tuple(roles), total * view.share, reason=reason, flipped=flipped)


PRODUCTS: Mapping[str, Callable[[Any, Sequence[Any], int], list[Use]]] = {
    "dot_general": dot,
    "ragged_dot_general": ragged_dot,
    "conv_general_dilated": convolution,
}

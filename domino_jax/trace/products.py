"""The products that a weight goes into, read from the dimension numbers of the primitive.

Letters: dims are those of the array that holds the weight, axes those of the parameter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from domino_jax.core.rules import DEPTHWISE
from domino_jax.trace.views import Dim, Piece, View

Marked = list[tuple[Piece, str]]


@dataclass(frozen=True)
class Use:
    """What happens to a parameter at one place of the trace.

    Attributes:
        view: of the parameter at that place.
        roles: per axis of the parameter 'stack', 'window', 'inputs' or 'outputs', '' where the
            product does not tell; () where there is no product.
        macs: weight products of one example.
        weak: a product with something that does not depend on the inputs.
        trouble: why the parameter stays dense because of this use, '' if it need not.
        note: what a harmless use that is no product does.
        convolution_groups: feature groups of the convolution, those of a stack not counted.
        flipped: axes of the parameter that the product reads backwards.
        transposed: a convolution whose inputs are spread apart by zeros.
    """

    view: View
    roles: tuple[str, ...] = ()
    macs: Fraction = Fraction(0)
    weak: bool = False
    trouble: str = ""
    note: str = ""
    convolution_groups: int = 1
    flipped: frozenset[int] = frozenset()
    transposed: bool = False


def merge_roles(first: str, second: str, size: int) -> str | None:
    """Returns the role of an axis of this size that has two roles, None where they clash."""
    if not first or not second or first == second or size == 1:
        return first or second
    # Groups never cross the positions of either.
    return "outputs" if {first, second} == {"stack", "outputs"} else None


def dot(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of the weights on one side of `jax.lax.dot_general`."""
    contracting, batch = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    total = math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[d] for d in contracting[0])
    stack = dict.fromkeys(batch[side], "stack")
    inputs = dict.fromkeys(contracting[side], "inputs")
    return [_use(view, _by_dim(view, stack | inputs), total) for view in values[side]]


def ragged_dot(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of expert weights: the rows of the other operand are shared out among the groups."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    if side != 1 or not numbers.rhs_group_dimensions:
        return [Use(view, trouble="goes into ragged_dot") for view in values[side]]
    apart = {*contracting, *batch, *numbers.rhs_group_dimensions}
    free = [size for d, size in enumerate(eqn.invars[1].aval.shape) if d not in apart]
    total = math.prod(eqn.invars[0].aval.shape) * math.prod(free)
    stack = dict.fromkeys((*batch, *numbers.rhs_group_dimensions), "stack")
    inputs = dict.fromkeys(contracting, "inputs")
    return [_use(view, _by_dim(view, stack | inputs), total) for view in values[1]]


def convolution(eqn: Any, values: Sequence[Any], side: int) -> list[Use]:
    """Uses of the kernels of a convolution: padding counts, zeros put between inputs do not."""
    if side != 1 or eqn.params["batch_group_count"] > 1:
        return [Use(view, trouble=f"goes into {eqn.primitive.name}") for view in values[side]]
    numbers = eqn.params["dimension_numbers"]
    image, kernel, result = (atom.aval.shape for atom in (*eqn.invars, *eqn.outvars))
    total = result[numbers.out_spec[0]] * math.prod(kernel)
    spatial = zip(
        numbers.lhs_spec[2:], numbers.out_spec[2:], eqn.params["lhs_dilation"], strict=True
    )
    for before, after, dilation in spatial:
        total *= image[before] if dilation > 1 else result[after]
    return [_kernel_use(view, eqn, total) for view in values[1]]


def _kernel_use(view: View, eqn: Any, total: int) -> Use:
    outputs, inputs, *window = eqn.params["dimension_numbers"].rhs_spec
    stack, groups = _stacked(view.dims[outputs], eqn.params["feature_group_count"])
    marks: Marked = [(piece, "stack") for piece in stack]
    marks += [(piece, "outputs") for piece in view.dims[outputs][len(stack) :]]
    marks += [(piece, "inputs") for piece in view.dims[inputs]]
    marks += [(piece, "window") for d in window for piece in view.dims[d]]
    depthwise = groups > 1 and eqn.invars[1].aval.shape[inputs] == 1
    use = _use(view, marks, total, DEPTHWISE if depthwise else "")
    spread = any(dilation > 1 for dilation in eqn.params["lhs_dilation"])
    return replace(use, convolution_groups=groups, transposed=spread)


def _stacked(outputs: Dim, groups: int) -> tuple[Dim, int]:
    """A vmapped convolution has its stack axis in front of the outputs, as groups."""
    count = 0
    for i, piece in enumerate(outputs[:-1]):
        if groups % piece.size or any(piece.axis == later.axis for later in outputs[i + 1 :]):
            break
        count, groups = i + 1, groups // piece.size
    return outputs[:count], groups


def _by_dim(view: View, roles: dict[int, str]) -> Marked:
    """Dims without a role are outputs; where there are none, the stacked ones are."""
    if len(roles) == len(view.dims):
        roles = {d: "outputs" if role == "stack" else role for d, role in roles.items()}
    return [(piece, roles.get(d, "outputs")) for d, dim in enumerate(view.dims) for piece in dim]


def _use(view: View, marks: Marked, total: int, trouble: str = "") -> Use:
    roles = [""] * len(view.leaf)
    trouble = view.trouble or trouble
    for piece, role in [*((piece, "stack") for piece in view.stack), *marks]:
        if piece.axis < 0:
            continue
        merged = merge_roles(roles[piece.axis], role, view.leaf[piece.axis])
        if merged is None:
            trouble = trouble or f"axis {piece.axis} is both {roles[piece.axis]} and {role}"
        else:
            roles[piece.axis] = merged
    dims = [piece for dim in view.dims for piece in dim if piece.axis >= 0 and piece.size > 1]
    flipped = frozenset(piece.axis for piece in dims if piece.stride < 0)
    return Use(view, tuple(roles), total * view.share, trouble=trouble, flipped=flipped)

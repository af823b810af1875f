"""Which elementwise primitives leave a zero weight at zero, and arithmetic on known scalars."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Number = int | float


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What hands its operands on as they are.
IDENTITY = _names(
    "copy device_put layout_constraint mesh_cast name optimization_barrier pcast pvary "
    "reshard sharding_constraint stop_gradient"
)
# f(0) = 0, of one operand: a pruned weight stays pruned.
ZERO_AT_ZERO = _names(
    "abs asin asinh atan atanh cbrt ceil convert_element_type erf erf_inv expm1 floor imag log1p "
    "neg real reduce_precision round sign sin sinh sqrt square tan tanh"
)
# All other elementwise ones: f(0) is not 0 (exp, cos), or the other operands decide (KEEPS).
OTHERS = _names(
    "acos acosh add_any atan2 clamp cos cosh digamma div erfc exp exp2 integer_pow lgamma log "
    "logistic max min mul nextafter pow rem rsqrt select_n sub add"
)
# Their results tell something of the weights (a norm, a mask by comparison) but hold them no more.
# A zero weight may change these results, but they change no zero weight: they are harmless.
MEASURES = _names(
    "argmax argmin eq ge gt is_finite le lt ne reduce_and reduce_max reduce_min reduce_or "
    "reduce_prod reduce_sum"
)


def _known(value: Any, compare: Callable[[Any, Any], bool]) -> bool:
    return isinstance(value, Number) and compare(value, 0)


# Does 0 stay 0 where the weights stand beside other operands (values, in the order of these)?
# The weights may be there twice: w - stop_gradient(w) + q(w) of quantization.
KEEPS: Mapping[str, Callable[[Sequence[Any], Any], bool]] = {
    "mul": lambda values, main: True,
    "div": lambda values, main: values[0] == main and values[1] != main,
    "add": lambda values, main: all(v == main or _known(v, operator.eq) for v in values),
    "sub": lambda values, main: all(v == main or _known(v, operator.eq) for v in values),
    "max": lambda values, main: all(v == main or _known(v, operator.le) for v in values),
    "min": lambda values, main: all(v == main or _known(v, operator.ge) for v in values),
    "clamp": lambda values, main: _known(values[0], operator.le) and _known(values[2], operator.ge),
    "select_n": lambda values, main: all(v == main or _known(v, operator.eq) for v in values[1:]),
}

# Enough arithmetic to follow indices (i + 1, i < 0 -> i + length) and bounds; in Python's numbers,
# which do not overflow: what is that large is no index.
FOLD: Mapping[str, Callable[..., Number]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "max": max,
    "min": min,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "select_n": lambda which, *cases: cases[int(which)],
    "broadcast_in_dim": lambda value: value,
    "convert_element_type": lambda value: value,
    "reshape": lambda value: value,
    "squeeze": lambda value: value,
}


def keeps_zeros(name: str, params: Mapping[str, Any], values: Sequence[Any], main: Any) -> bool:
    """Tells whether weights that are zero are zero after the primitive.

    Args:
        name: of the primitive.
        params: of the equation.
        values: of the operands: the weights, known numbers, anything else.
        main: the value that is the weights; it may be there more than once.
    """
    if name in KEEPS:
        return KEEPS[name](values, main)
    if name == "integer_pow":
        return params["y"] > 0
    return name in ZERO_AT_ZERO


def fold(name: str, values: Sequence[Any]) -> Number | None:
    """Computes a scalar (or an array filled with one number); None where that is not known."""
    if name not in FOLD or not all(isinstance(value, Number) for value in values):
        return None
    return FOLD[name](*values)

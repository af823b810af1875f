"""Elementwise primitives with other operands beside the weights: which of them is the kernel?"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from domino_jax.trace import elementwise, views
from domino_jax.trace.products import Use
from domino_jax.trace.values import INPUT, Outcome, end, listed, reasons, rest, views_of
from domino_jax.trace.views import View
from domino_jax.trace.walk import Value


def combine(eqn: Any, values: list[Value]) -> Outcome:
    """Zero weights must stay zero; where they do not, the parameter is followed but not sparse.

    It is followed still because its products cost what they cost: `x @ (w - mean(w))` has the MACs
    of w. That holds for kernels only. A bias or a scale meets arrays that others made; followed
    on, it would be taken for a kernel at the next product (of a learned query, say).

        w [8, 6] * g [1, 6]                 weight normalization: w is the kernel, g its scale
        w [8, 6] * x [8, 1]                 modulation: w is the kernel, other for each example
        x [9, 8] * g [1, 8]                 g is the scale of a norm
        (q @ w) [1, 6] + b [6]              b is a bias: whatever comes of it is no b
        w [8, 6] + (a @ b) [8, 6]           LoRA: w is the kernel, never sparse in this form
        g [8, 6] * v [8, 6] / |v|           what is measured is the kernel
        a [8, 6] * b [8, 6]                 no one knows which is: a counts, and stays dense
    """
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name == "select_n" and all(value == values[1] for value in values[1:]):
        return values[1:2], []  # vmap writes a switch so: the same weights, whatever is chosen
    values = [_spread(value, shape) for value in values]
    values, found = _measured(values) if name in ("mul", "div") else (values, [])
    # The same weights on both sides, w * w, are one array: hence the keys of a dict.
    main, *others = sorted({v: None for v in values if isinstance(v, tuple)}, key=_doubt)
    same = [value for value in others if _doubt(value) == _doubt(main)]
    if same and name == "mul":
        main, others = _kernel_of([main, *same], others)
    # A sum or a product of two kernels: which of them is one? A zero of a sum is a zero of neither.
    keeps = elementwise.keeps_zeros(name, eqn.params, values, main) and not main[0].factors
    other_paths = _other_paths(main, values)
    if _is_lost(eqn, values, main, keeps, other_paths):
        return end(eqn, values, reasons(values, f"goes into {name}"))
    scales = keeps or name == "mul"
    found += _scales(main, others) if scales else reasons(others, f"goes into {name}")
    if not keeps:
        reason = f"goes into {name}" + (f" with {listed(other_paths)}" if other_paths else "")
        main = tuple(replace(view, reason=view.reason or reason) for view in main)
    if INPUT in values:  # other weights for each example, but their zeros are those of w
        main = tuple(replace(view, varies=True) for view in main)
    return [main], found


def _spread(value: Value, shape: Sequence[int]) -> Value:
    """Repeats weights along dims of size 1 as elementwise primitives do."""
    if not isinstance(value, tuple) or len(value) > 1 or len(value[0].dims) != len(shape):
        return value
    return (views.broadcast(value[0], shape, range(len(shape))),)


def _measured(values: Sequence[Value]) -> tuple[list[Value], list[Use]]:
    """Notes which parameters a norm that scales the weights was computed from.

    Of g * v / |v| the product g * v comes first: only here it turns out that v is the kernel.
    """
    paths = frozenset().union(*(value for value in values if isinstance(value, frozenset)))
    results, found = [], []
    for value in values:
        kernel = value
        if isinstance(value, tuple):
            factors = {factor: factor.path in paths for factor in value[0].factors}
            known = [factor for factor, is_measured in factors.items() if is_measured]
            if len(known) == len(value) == 1 and value[0].dims == known[0].dims:
                kernel = (known[0],)
                found = _scales(kernel, [(factor,) for factor in factors if factor != known[0]])
            kernel = tuple(replace(view, measured=view.measured | paths) for view in kernel)
        results.append(kernel)
    return results, found


def _kernel_of(
    candidates: Sequence[tuple[View, ...]], others: Sequence[tuple[View, ...]]
) -> tuple[tuple[View, ...], list[tuple[View, ...]]]:
    """Picks the kernel of a product of several; the first, marked, where that is not known."""
    paths = frozenset().union(*(view.measured for value in candidates for view in value))
    measured = [value for value in candidates if all(view.path in paths for view in value)]
    if len(measured) == 1:
        (main,) = measured
    else:
        factors = tuple(view for value in candidates for view in value)
        main = tuple(replace(view, factors=factors) for view in candidates[0])
    return main, [value for value in dict.fromkeys((*candidates, *others)) if value != main]


def _is_lost(
    eqn: Any,
    values: Sequence[Value],
    main: tuple[View, ...],
    keeps: bool,
    other_paths: frozenset[str],
) -> bool:
    """Tells whether what comes out of an elementwise primitive is no kernel any more."""
    shape = eqn.outvars[0].aval.shape
    # Several joined arrays cannot be repeated: their views have other sizes than the array.
    if eqn.invars[values.index(main)].aval.shape != shape and (
        len(main) > 1 or main[0].shape != shape
    ):
        return True
    no_kernel = any(_is_no_kernel(view, keeps) for view in main)
    sizes = [a.aval.size for a, v in zip(eqn.invars, values, strict=True) if v is INPUT]
    large = [size for size in sizes if size > 1]
    # An activation as large as the array is what is weighted here, not what weights.
    if large and (not keeps or no_kernel or max(large) >= math.prod(shape)):
        return True
    # Alone, or beside constants, even a vector may go on: w / |w|, w * mask.
    return bool(other_paths) and no_kernel


def _doubt(value: tuple[View, ...]) -> tuple[bool, bool]:
    """Of several arrays the kernel is the one that is not repeated and that nothing keeps dense.

    In this order: a standardized kernel, dense already, is still the kernel beside its gain.
    """
    return any(views.is_repeated(view) for view in value), in_doubt(value)


def in_doubt(value: tuple[View, ...]) -> bool:
    """Says whether something keeps every part of an array dense already."""
    return all(view.reason for view in value)


def _other_paths(main: tuple[View, ...], values: Sequence[Value]) -> frozenset[str]:
    """Lists the parameters, besides those of `main`, that the other operands are computed from."""
    parents = rest([value for value in values if value != main and value is not INPUT])
    return frozenset() if parents is INPUT else parents - {view.path for view in main}


def _is_no_kernel(view: View, keeps: bool) -> bool:
    """Tells a bias or a scale by its form: a vector, or repeated; a bias also by added dims."""
    # A vector that was reshaped to a matrix is none: it is a kernel out of a flat parameter.
    vector = len(view.leaf) == 1 and views.matrix_rank(view) < 2
    return vector or views.is_repeated(view) or (not keeps and () in view.dims)


def _scales(main: tuple[View, ...], others: Sequence[tuple[View, ...]]) -> list[Use]:
    """What multiplies a kernel, such as the g of g·v/|v|: it keeps its zeros where they are."""
    name = listed({view.path for view in main})
    return [
        Use(view, reason=view.reason) if view.reason else Use(view, note=f"scales {name}")
        for view in views_of(others)
    ]

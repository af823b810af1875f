"""The layers of a network: which parameters are convolution or matrix-product kernels.

Letters: M is the group size, S the number of slices along the stack axes of a kernel.
"""

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masks import Axes
from domino_jax.core.rules import DEPTHWISE, checked_candidates, group_by_rule, require_rules
from domino_jax.trace.products import Use, merge_roles
from domino_jax.trace.views import positions
from domino_jax.trace.walk import arrays_by_path, find_uses

NOT_USED = "not used"
VECTOR = "of one axis, which has no inputs and outputs"


@dataclass(frozen=True)
class _Kernel:
    """What the trace says of one parameter; `firsts` and `macs` have one number per slice."""

    axes: Axes | None
    macs: tuple[int, ...] = (0,)
    firsts: tuple[int | None, ...] = (None,)
    reason: str | None = None
    convolution_groups: int = 1
    flipped: tuple[int, ...] | None = ()
    transposed: bool = False


def find_layers(
    apply: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    m: int,
    rules: paths.Rules = (),
    *,
    candidates: Sequence[int] | None = None,
) -> tuple[LayerSpec, ...]:
    """Finds the layers of a network by tracing it; nothing is executed.

    Groups of M weights run along the input axes. A rule's value is 'dense', the candidates of the
    layers (the last is their M), an int (their M), 'flatten' or 'shrink'. 'flatten': groups run
    along the flattened window and inputs of one output, padded to a multiple of M. 'shrink': a
    layer whose inputs (of one group of a grouped convolution) are no multiple of M takes
    M' = gcd(M, inputs) and, besides M' itself, the candidates below it; it stays dense if there
    are none.

    Args:
        apply: `apply(params, inputs)`.
        params: pytree of arrays or ShapeDtypeStructs.
        inputs: pytree of arrays or ShapeDtypeStructs; their leading axis, the batch, counts as 1.
        m: weights of a group, 2 to 64.
        rules: pairs (regex, value), the first regex found in the path of a parameter wins.
        candidates: what N may be, increasing and ending in m; by default the powers of two and m.

    Returns:
        One layer per parameter of rank >= 2, or per slice of a stacked one, in the order of their
        first product; those that are left out come last. A parameter of rank 1 that goes into a
        product (reshaped to a kernel, say) is listed too, and stays dense.

    Raises:
        InputError: m, candidates or a rule is not allowed, a rule matches no parameter or asks for
            groups that do not fit its layer, or no layer can be grouped.
    """
    chosen = checked_candidates(m, candidates)
    arrays = arrays_by_path(params)
    require_rules(rules)
    uses: dict[str, list[tuple[int, Use]]] = {path: [] for path in arrays}
    for number, use in enumerate(find_uses(apply, params, inputs)):
        uses[use.view.path].append((number, use))
    matrices = {path: leaf for path, leaf in arrays.items() if len(leaf.shape) > 1 or uses[path]}
    paths.require_used(rules, matrices)
    found: list[tuple[float, LayerSpec]] = []
    for path, leaf in matrices.items():
        kernel = _kernel(leaf, uses[path])
        rule = paths.first_match(
            [(pattern, (pattern, v)) for pattern, v in rules], path, ("", None)
        )
        found += zip(_order(kernel), _layers(path, leaf, kernel, chosen, rule), strict=True)
    layers = tuple(layer for _, layer in sorted(found, key=operator.itemgetter(0)))
    if not any(layer.candidates for layer in layers):
        raise InputError(_nothing(layers, m))
    return layers


def _kernel(leaf: jax.ShapeDtypeStruct, uses: Sequence[tuple[int, Use]]) -> _Kernel:
    """Sums up the uses (with their places in the trace) of one parameter."""
    troubles = [use.trouble for _, use in uses if use.trouble]
    used = [(number, use) for number, use in uses if use.roles]
    if not used:
        notes = [f"only {use.note}" for _, use in uses if use.note]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            notes = [f"{leaf.dtype}, not floating"]
        return _Kernel(None, reason=[*troubles, *notes, NOT_USED][0])
    roles, used, clash = _merged(leaf.shape, used)
    axes = _axes(roles)
    macs, firsts = _shared(leaf.shape, axes, used)
    vector = [VECTOR] if len(leaf.shape) == 1 else []
    reason = [*vector, *(t for t in troubles if t != DEPTHWISE), *clash, *troubles, None][0]
    groups = max(use.convolution_groups for _, use in used)
    (flipped, transposed), *others = {(use.flipped, use.transposed) for _, use in used}
    order = None if others else tuple(sorted(flipped))
    return _Kernel(axes, tuple(macs), tuple(firsts), reason, groups, order, transposed)


def _merged(
    shape: Sequence[int], used: list[tuple[int, Use]]
) -> tuple[list[str], list[tuple[int, Use]], list[str]]:
    """Returns the roles of the axes, the products that count, and a reason if the roles clash.

    A product with something that does not depend on the inputs counts where it agrees with those
    that do (a norm for spectral normalization need not).
    """
    strong = [(number, use) for number, use in used if not use.weak]
    weak = [(number, use) for number, use in used if use.weak]
    must_fit = strong or weak
    roles, kept, clash = list(must_fit[0][1].roles), [], []
    for number, use in strong + weak:
        merged = [merge_roles(*pair) for pair in zip(roles, use.roles, shape, strict=True)]
        fits = [role for role in merged if role is not None]
        if len(fits) == len(roles):
            roles = fits
        elif (number, use) in must_fit:
            clash = ["used along different input axes"]
        else:
            continue
        kept.append((number, use))
    return roles, kept, clash


def _axes(roles: Sequence[str]) -> Axes:
    def of(*names: str) -> tuple[int, ...]:
        return tuple(axis for axis, role in enumerate(roles) if role in names)

    # An axis of size 1 that a reshape removed before the product has no role: it may have any.
    return Axes(of("stack"), of("window"), of("inputs"), of("outputs", ""))


def _shared(
    shape: Sequence[int], axes: Axes, used: Sequence[tuple[int, Use]]
) -> tuple[list[int], list[int | None]]:
    """Shares the MACs of each use out among the slices it covers; also gives their first use."""
    stack = [shape[axis] for axis in axes.stack]
    macs = [0] * math.prod(stack)
    firsts: list[int | None] = [None] * len(macs)
    for number, use in used:
        covered = list(itertools.product(*(positions(use.view, axis) for axis in axes.stack)))
        each, more = divmod(int(use.macs), len(covered))
        for i, spot in enumerate(covered):
            index = 0
            for place, size in zip(spot, stack, strict=True):
                index = index * size + place
            macs[index] += each + (i < more)
            firsts[index] = number if firsts[index] is None else firsts[index]
    return macs, firsts


def _order(kernel: _Kernel) -> list[float]:
    """Place of each slice: its first use; a slice without one follows the kernel's first."""
    numbers = [number for number in kernel.firsts if number is not None]
    start = min(numbers, default=math.inf)
    return [start if number is None else number for number in kernel.firsts]


def _layers(
    path: str,
    leaf: jax.ShapeDtypeStruct,
    kernel: _Kernel,
    candidates: tuple[int, ...],
    rule: tuple[str, Any],
) -> list[LayerSpec]:
    if kernel.axes is None:
        return [LayerSpec(path, tuple(leaf.shape), None, 0, reason=kernel.reason)]
    stack = kernel.axes.stack
    shape = tuple(size for axis, size in enumerate(leaf.shape) if axis not in stack)
    ruled = group_by_rule(
        LayerSpec(
            path,
            shape,
            kernel.axes,
            0,
            reason=kernel.reason,
            convolution_groups=kernel.convolution_groups,
            flipped=kernel.flipped,
            transposed=kernel.transposed,
        ),
        candidates,
        *rule,
    )
    layers = [
        replace(ruled, name=f"{path}#{index}" if stack else path, macs=macs)
        for index, macs in enumerate(kernel.macs)
    ]
    return [
        replace(layer, groups=None, reason=NOT_USED) if first is None else layer
        for layer, first in zip(layers, kernel.firsts, strict=True)
    ]


def _nothing(layers: Sequence[LayerSpec], m: int) -> str:
    shown = [f"{layer.name} ({layer.reason})" for layer in layers[:5]]
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    listed = ", ".join(shown) + more or "it has no parameter of rank 2 or more"
    return f"no layer of the network can be grouped by m={m}: {listed}"

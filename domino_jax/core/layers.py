"""A layer, and how its weights are grouped: candidates for N, and the rules that change them.

Letters: M is the group size.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.masks import Axes

LARGEST_M = 64
DEPTHWISE = "depthwise"
NAMED_RULES = ("dense", "flatten", "shrink")


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a kernel, or one slice of a stacked kernel.

    Attributes:
        name: path of the parameter; 'path#3' is slice 3, row-major over the stack axes.
        shape: of the kernel, of one slice (without stack axes) if stacked.
        axes: parts that the axes of the whole parameter play; None where it is in no convolution
            or matrix product: it is left out of budgets.
        macs: weight products per example, no bias, summed over its uses; 0 where axes is None.
        candidates: what N may be, increasing, ends in M; () where reason is not ''.
        reason: '' where the layer is grouped, else why it stays dense or is left out.
    """

    name: str
    shape: tuple[int, ...]
    axes: Axes | None
    macs: int
    candidates: tuple[int, ...]
    reason: str = ""

    @property
    def path(self) -> str:
        """Of the parameter that holds the layer."""
        return self.name if self.index is None else self.name.rpartition("#")[0]

    @property
    def index(self) -> int | None:
        """Number of the slice of a stacked kernel, None where it is not stacked."""
        return int(self.name.rpartition("#")[2]) if self.axes and self.axes.stack else None

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def m(self) -> int:
        """Size of its groups.

        Raises:
            InputError: the layer is not grouped.
        """
        if not self.candidates:
            raise InputError(f"{self.name}: has no groups ({self.reason})")
        return self.candidates[-1]


def require_rules(rules: paths.Rules) -> None:
    """Refuses rules that `find_layers` would refuse for any network.

    Raises:
        InputError: the regex of the first rule that is none, or whose value is not allowed.
    """
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise InputError(f"a rule is a pair (regex, value), got {rule!r}")
        paths.require_regex(rule[0])
        _check_value(*rule)


def flattened(
    layers: Sequence[LayerSpec], m: int, candidates: Sequence[int] | None = None
) -> tuple[LayerSpec, ...]:
    """Groups the layers whose inputs are no multiple of M as the rule 'flatten' would.

    Args:
        layers: of `find_layers`.
        m: as given to `find_layers`.
        candidates: as given to `find_layers`.

    Raises:
        InputError: m or candidates is not allowed.
    """
    chosen = checked_candidates(m, candidates)
    return tuple(
        replace(layer, axes=_flat(layer.axes), candidates=chosen, reason="")
        if _misfitting(layer, m)
        else layer
        for layer in layers
    )


def shrunk(
    layers: Sequence[LayerSpec], m: int, candidates: Sequence[int] | None = None
) -> tuple[LayerSpec, ...]:
    """Groups the layers whose inputs are no multiple of M as the rule 'shrink' would.

    Arguments and errors are those of `flattened`.
    """
    chosen = checked_candidates(m, candidates)
    return tuple(
        _grouped(replace(layer, reason=""), chosen, _shrunk(chosen, _inputs(layer)))
        if _misfitting(layer, m)
        else layer
        for layer in layers
    )


def _misfitting(layer: LayerSpec, m: int) -> bool:
    return layer.axes is not None and layer.reason in _misfits(_inputs(layer), m)


def _default_candidates(m: int) -> tuple[int, ...]:
    return (*itertools.takewhile(lambda n: n < m, (2**i for i in itertools.count())), m)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def checked_candidates(m: Any, candidates: Sequence[int] | None) -> tuple[int, ...]:
    """Returns what N may be: by default the powers of two below M, and M.

    Raises:
        InputError: m or the candidates are not allowed.
    """
    if not _is_int(m) or not 2 <= m <= LARGEST_M:
        raise InputError(f"m is {m!r}; it must be an int from 2 to {LARGEST_M}")
    if candidates is None:
        return _default_candidates(m)
    if not _are_candidates(candidates) or candidates[-1] != m:
        raise InputError(
            f"candidates are {candidates!r}; they must be ints >= 1, rise and end in {m}"
        )
    return tuple(candidates)


def _are_candidates(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(_is_int(value) and value >= 1 for value in values)
        and all(low < high for low, high in itertools.pairwise(values))
    )


def _check_value(pattern: str, value: Any) -> None:
    last = value[-1] if _are_candidates(value) else value
    if value not in NAMED_RULES and not (_is_int(last) and 2 <= last <= LARGEST_M):
        raise InputError(
            f"rule {pattern!r} has the value {value!r}; allowed are "
            f"{', '.join(map(repr, NAMED_RULES))}, an M from 2 to {LARGEST_M}, or rising "
            "candidates that end in such an M"
        )


def grouped_by_rule(
    layer: LayerSpec, candidates: tuple[int, ...], pattern: str, value: Any
) -> LayerSpec:
    """Groups a layer as its rule says; the value is None where it has no rule."""
    if layer.reason not in ("", DEPTHWISE):
        return layer
    if value == "dense":
        return replace(layer, reason=f"dense by rule '{pattern}'")
    if value == "flatten":
        return replace(layer, axes=_flat(layer.axes), candidates=candidates, reason="")
    if value == "shrink":
        return _grouped(layer, candidates, _shrunk(candidates, _inputs(layer)))
    if value is not None:
        candidates = _default_candidates(value) if _is_int(value) else tuple(value)
    inputs, m = _inputs(layer), candidates[-1]
    if inputs % m and value is not None:
        raise InputError(f"rule {pattern!r}: {layer.name}: {_misfits(inputs, m)[0]}")
    return _grouped(layer, candidates, () if inputs % m else candidates)


def _grouped(layer: LayerSpec, wanted: tuple[int, ...], candidates: tuple[int, ...]) -> LayerSpec:
    """Gives a layer its candidates; without any, or if depthwise, it stays dense."""
    if candidates and not layer.reason:
        return replace(layer, candidates=candidates)
    return replace(layer, reason=layer.reason or _misfit(_inputs(layer), wanted))


def _shrunk(candidates: tuple[int, ...], inputs: int) -> tuple[int, ...]:
    """Returns the candidates for the largest M that divides M and the inputs; () if N = M alone."""
    m = math.gcd(candidates[-1], inputs)
    if m == candidates[-1]:
        return candidates
    below = tuple(n for n in candidates if n < m)
    return (*below, m) if below else ()


def _flat(axes: Axes | None) -> Axes | None:
    return axes and replace(axes, window=(), inputs=(*axes.window, *axes.inputs))


def _inputs(layer: LayerSpec) -> int:
    """Number of input weights of one output at one window position."""
    stack, inputs = (layer.axes.stack, layer.axes.inputs) if layer.axes else ((), ())
    axes = [a for a in range(len(layer.shape) + len(stack)) if a not in stack]
    return math.prod(size for a, size in zip(axes, layer.shape, strict=True) if a in inputs)


def _misfit(inputs: int, candidates: tuple[int, ...]) -> str:
    """Says why a layer has no groups of M, and with which rule it would."""
    alone, hinted = _misfits(inputs, candidates[-1])
    return hinted if _shrunk(candidates, inputs) else alone


def _misfits(inputs: int, m: int) -> tuple[str, str]:
    """Returns all that `_misfit` says for any candidates: without and with the rule."""
    alone = f"input size {inputs} is no multiple of {m}"
    return alone, f"{alone} (M = {math.gcd(m, inputs)} by the rule 'shrink')"

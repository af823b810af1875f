"""The rules that give layers their groups: which M and candidates, along which axes, or dense.

Letters: M is the group size.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from domino_jax.core import paths
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.layers import Groups, LayerSpec, inputs_of

LARGEST_M = 64
NAMED_RULES = ("dense", "flatten", "shrink")
DEPTHWISE = "depthwise"  # the one reason of a trace that the rule 'flatten' answers


def require_rules(rules: paths.Rules) -> None:
    """Refuses rules that `find_layers` would refuse for any network.

    Raises:
        InputError: the regex of the first rule that is none, or whose value is not allowed.
    """
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise InputError(f"rules: expected a sequence of pairs (regex, value), got {rules!r}")
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise InputError(f"expected a rule (regex, value), got {rule!r}")
        paths.require_regex(rule[0])
        _require_value(*rule)


def checked_candidates(m: Any, candidates: Sequence[int] | None) -> tuple[int, ...]:
    """Returns what N may be: by default the powers of two below M, and M.

    Raises:
        InputError: m or the candidates are not allowed.
    """
    if not _is_int(m) or not 2 <= m <= LARGEST_M:
        raise InputError(f"m: expected an int from 2 to {LARGEST_M}, got {m!r}")
    if candidates is None:
        return _default_candidates(m)
    if not _are_candidates(candidates) or candidates[-1] != m:
        raise InputError(
            f"candidates: expected rising ints of 1 or more that end in {m}, got {candidates!r}"
        )
    return tuple(candidates)


def group_by_rule(
    layer: LayerSpec, candidates: tuple[int, ...], pattern: str, value: Any
) -> LayerSpec:
    """Groups a layer as its rule says; the value is None where it has no rule.

    Args:
        layer: as the trace saw it: without groups, its reason None or the trace's.
        candidates: of the layers without a rule of their own.
        pattern: the rule's regex, for messages.
        value: the rule's value: 'dense', 'flatten', 'shrink', an M or candidates.

    Raises:
        InputError: the rule asks for groups that do not fit the layer.
    """
    if layer.roles is None or layer.reason not in (None, DEPTHWISE):
        return layer
    if value == "dense":
        return replace(layer, reason=f"dense by rule '{pattern}'")
    if value == "flatten":
        return _flattened(layer, candidates)
    if value == "shrink":
        return _with_groups(layer, candidates, _shrunk(candidates, _span(layer)))
    if value is not None:
        candidates = _default_candidates(value) if _is_int(value) else tuple(value)
    misfit = _span(layer) % candidates[-1] > 0
    if misfit and value is not None:
        raise InputError(f"rule {pattern!r}: {layer.name}: {_misfits(layer, candidates[-1])[0]}")
    return _with_groups(layer, candidates, () if misfit else candidates)


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
    all_candidates = checked_candidates(m, candidates)
    return tuple(
        _flattened(layer, all_candidates) if _is_misfit(layer, m) else layer for layer in layers
    )


def shrunk(
    layers: Sequence[LayerSpec], m: int, candidates: Sequence[int] | None = None
) -> tuple[LayerSpec, ...]:
    """Groups the layers whose inputs are no multiple of M as the rule 'shrink' would.

    Arguments and errors are those of `flattened`.
    """
    all_candidates = checked_candidates(m, candidates)
    return tuple(
        _with_groups(
            replace(layer, reason=None), all_candidates, _shrunk(all_candidates, _span(layer))
        )
        if _is_misfit(layer, m)
        else layer
        for layer in layers
    )


def _flattened(layer: LayerSpec, candidates: tuple[int, ...]) -> LayerSpec:
    axes = layer.roles
    if axes is None:
        return layer
    span, m = layer.together_flat, candidates[-1]
    if span is not None and span % m:
        # Padding lengthens the last group only: the others would run across the cut.
        window = "window and " if axes.window else ""
        cut = f"cut along its {window}inputs into parts of {span}, no multiple of {m}"
        return replace(layer, reason=cut)
    along = Axes(axes.stack, (), (*axes.window, *axes.inputs), axes.outputs)
    return replace(layer, groups=Groups(along, candidates), reason=None)


def _with_groups(
    layer: LayerSpec, all_candidates: tuple[int, ...], candidates: tuple[int, ...]
) -> LayerSpec:
    """Groups a layer along its traced inputs; without candidates, or if depthwise, it is dense."""
    if candidates and not layer.reason and layer.roles is not None:
        return replace(layer, groups=Groups(layer.roles, candidates))
    return replace(layer, reason=layer.reason or _misfit(layer, all_candidates))


def _span(layer: LayerSpec) -> int:
    """Returns what M must divide: the inputs, or the parts of them that are summed together."""
    return layer.together or inputs_of(layer)


def _is_misfit(layer: LayerSpec, m: int) -> bool:
    return layer.roles is not None and layer.reason in _misfits(layer, m)


def _misfit(layer: LayerSpec, candidates: tuple[int, ...]) -> str:
    """Says why a layer has no groups of M, and with which rule it would."""
    alone, hinted = _misfits(layer, candidates[-1])
    return hinted if _shrunk(candidates, _span(layer)) else alone


def _misfits(layer: LayerSpec, m: int) -> tuple[str, str]:
    """Returns all that `_misfit` says for any candidates: without and with the rule."""
    alone = f"input size {inputs_of(layer)} is no multiple of {m}"
    if layer.together is not None:
        alone = f"cut along its inputs into parts of {layer.together}, no multiple of {m}"
    return alone, f"{alone} (M = {math.gcd(m, _span(layer))} by the rule 'shrink')"


def _shrunk(candidates: tuple[int, ...], inputs: int) -> tuple[int, ...]:
    """Returns the candidates for the largest M that divides M and the inputs; () if N = M alone."""
    m = math.gcd(candidates[-1], inputs)
    if m == candidates[-1]:
        return candidates
    below = tuple(n for n in candidates if n < m)
    return (*below, m) if below else ()


def _default_candidates(m: int) -> tuple[int, ...]:
    return (*itertools.takewhile(lambda n: n < m, (2**i for i in itertools.count())), m)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_candidates(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(_is_int(value) and value >= 1 for value in values)
        and all(low < high for low, high in itertools.pairwise(values))
    )


def _require_value(pattern: str, value: Any) -> None:
    last = value[-1] if _are_candidates(value) else value
    if value not in NAMED_RULES and not (_is_int(last) and 2 <= last <= LARGEST_M):
        raise InputError(
            f"rule {pattern!r}: expected {', '.join(map(repr, NAMED_RULES))}, an M from 2 to "
            f"{LARGEST_M}, or rising candidates that end in such an M, got {value!r}"
        )

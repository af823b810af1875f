"""The layers of a network: its kernels, and the groups that the rules make of them.

Letters: M is the group size.
"""

import re
from collections.abc import Sequence
from typing import Any

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.rules import checked_candidates, group_by_rule, require_rules
from domino_jax.trace.example import Apply
from domino_jax.trace.kernels import find_kernels


def find_layers(
    apply: Apply,
    params: Any,
    inputs: Any,
    m: int,
    rules: paths.Rules = (),
    *,
    candidates: Sequence[int] | None = None,
    batched: Any = True,
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
        rules: pairs (regex, value), the first regex found in the path of a parameter wins; one
            found in the name of a slice alone, such as 'blocks/w#3', may make it dense.
        candidates: what N may be, increasing and ending in m; by default the powers of two and m.
        batched: which inputs have a batch axis, as for `find_kernels`.

    Returns:
        The layers of `find_kernels`, in its order, each with groups or with the reason why not.

    Raises:
        InputError: m, candidates or a rule is not allowed, a rule matches no parameter or asks for
            groups that do not fit its layer, no layer can be grouped, or as `find_kernels`.
    """
    checked_candidates(m, candidates)  # before the trace, which takes longer
    require_rules(rules)
    kernels = find_kernels(apply, params, inputs, batched=batched)
    return group_kernels(kernels, m, rules, candidates=candidates)


def group_kernels(
    kernels: Sequence[LayerSpec],
    m: int,
    rules: paths.Rules = (),
    *,
    candidates: Sequence[int] | None = None,
) -> tuple[LayerSpec, ...]:
    """Makes groups of kernels that were found before; arguments and errors as of `find_layers`."""
    all_candidates = checked_candidates(m, candidates)
    require_rules(rules)
    paths.require_used(rules, dict.fromkeys(name for k in kernels for name in (k.path, k.name)))
    layers = tuple(
        group_by_rule(kernel, all_candidates, *_rule_of(kernel, rules)) for kernel in kernels
    )
    if not any(layer.candidates for layer in layers):
        raise InputError(_nothing(layers, m))
    return layers


def _rule_of(kernel: LayerSpec, rules: paths.Rules) -> tuple[str, Any]:
    """Returns the first rule whose regex is found in the path of a kernel, or in a slice's name."""
    for pattern, value in rules:
        if re.search(pattern, kernel.path):
            return pattern, value
        if re.search(pattern, kernel.name):
            # One kernel has one M: its mask is made of one view of the whole stack.
            if value != "dense":
                raise InputError(
                    f"rule {pattern!r}: {kernel.name}: expected 'dense' for one slice of a stack, "
                    f"got {value!r}; for all of them name {kernel.path!r}"
                )
            return pattern, value
    return "", None


def _nothing(layers: Sequence[LayerSpec], m: int) -> str:
    shown = [f"{layer.name} ({layer.reason})" for layer in layers[:5]]
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    listed = ", ".join(shown) + more or "it has no parameter of rank 2 or more"
    return f"no layer of the network can be grouped by m={m}: {listed}"

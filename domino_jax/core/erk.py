"""Erdős–Rényi-kernel sparsities: layers with few weights per channel keep more of them.

A layer's density is proportional to Σ shape / Π shape (Evci et al. 2020, RigL, appendix; the
published DominoSearch code). The order of the axes does not matter: HWIO and OIHW agree.
"""

import math
from collections.abc import Collection, Mapping

from domino_jax.core.errors import InputError


def erk(
    shapes: Mapping[str, tuple[int, ...]], sparsity: float, fixed_dense: Collection[str] = ()
) -> dict[str, float]:
    """Spreads an overall sparsity over layers by the Erdős–Rényi-kernel rule.

    Layers whose density would exceed 1 become dense, and the rest is solved again until none does.

    Args:
        shapes: layer to shape of its kernel, any order of axes.
        sparsity: share of zeros over all these layers, in [0, 1); of each layer ⌊sparsity · size⌋
            zeros are counted, in floating point as the published code does.
        fixed_dense: layers that cannot move: dense from the start.

    Returns:
        Layer to share of zeros, in the order of `shapes`; 0.0 is dense.

    Raises:
        InputError: no layer, a layer without axes or with an empty one, a sparsity outside
            [0, 1), an unknown name in `fixed_dense`, or dense layers that leave no weight for
            the others.
    """
    _require_input(shapes, sparsity, fixed_dense)
    sums = {name: sum(shape) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(size - math.floor(sparsity * size) for size in sizes.values())
    dense = set(fixed_dense)
    while True:
        free = [name for name in shapes if name not in dense]
        # density = Σ shape / Π shape · left / divisor; in integers "above 1" is exact.
        left = kept - sum(sizes[name] for name in dense)
        divisor = sum(sums[name] for name in free)
        if left < 0 or (left == 0) != (not free):
            raise InputError(
                f"sparsity {sparsity} cannot be reached: of {sum(sizes.values())} weights {kept} "
                f"are kept, and the layers that stay dense have {kept - left} "
                f"({', '.join(sorted(dense)[:5])}{', …' if len(dense) > 5 else ''})"
            )
        above = [name for name in free if sums[name] * left > sizes[name] * divisor]
        if not above:
            break
        # The published code takes only the largest, ties together. Each one that leaves raises
        # left / divisor, so the others would follow: the outcome is the same.
        dense.update(above)
    return {
        name: 0.0 if name in dense else 1 - sums[name] * left / (sizes[name] * divisor)
        for name in shapes
    }


def _require_input(
    shapes: Mapping[str, tuple[int, ...]], sparsity: float, fixed_dense: Collection[str]
) -> None:
    if not shapes:
        raise InputError("there is no layer to spread the sparsity over")
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise InputError(f"layer {name!r}: a kernel has axes of at least 1, got shape {shape}")
    if not 0 <= sparsity < 1:
        raise InputError(f"the sparsity must be at least 0 and below 1, got {sparsity}")
    unknown = [name for name in fixed_dense if name not in shapes]
    if unknown:
        raise InputError(f"layer {unknown[0]!r} is to stay dense, but has no shape here")

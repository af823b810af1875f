"""Where a language model's weights belong: schemes of equal size, from MLP-rich to attention-rich.

Every kernel of attention keeps A of 16 and every kernel of the MLPs B of 16, with 4A + 8B = 48 (an
MLP has twice the weights), the head 4: as many weights as 4:16 everywhere. They are methods of
`python -m domino_jax.compare`; benchmarks/RESULTS.md has the command.
"""

from collections.abc import Callable

from domino_jax.allocate.problem import Problem
from domino_jax.core.layers import grouped
from domino_jax.core.scheme import NM, Scheme

M = 16


def _shares(attention: int, mlp: int) -> Callable[[Problem], Scheme]:
    """Makes the allocator that gives every kernel N:16 by what it belongs to."""
    kinds = {"attention": attention, "mlp": mlp, "head": 4}

    def allocate(problem: Problem) -> Scheme:
        names = [layer.name for layer in grouped(problem.layers)]
        return {name: NM(next(n for kind, n in kinds.items() if kind in name), M) for name in names}

    return allocate


attention2_mlp5 = _shares(2, 5)
attention6_mlp3 = _shares(6, 3)
attention8_mlp2 = _shares(8, 2)

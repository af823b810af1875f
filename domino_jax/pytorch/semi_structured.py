"""Which weights PyTorch's semi-structured ("2:4") kernels can take, judged on the arrays.

The kernel sees a matrix (outputs, window · inputs), inputs fastest: of every 4 weights of a row at
most 2 may differ from zero; in float32 of every 2 at most 1. Shape multiples are those of
`torch.sparse.semi_structured` in PyTorch 2.13.

Letters: O outputs, K columns (window positions times inputs).
"""

import numpy as np

from domino_jax.core.masks import Axes
from domino_jax.core.scheme import NM

BACKENDS = ("cusparselt", "cutlass")
DTYPES = ("float32", "float16", "bfloat16")
_RUN = {"float32": (1, 2)}
_MULTIPLES = {
    "cusparselt": {"float16": (16, 16), "bfloat16": (16, 16), "int8": (32, 32)},
    "cutlass": {
        "float32": (32, 32),
        "float16": (32, 64),
        "bfloat16": (32, 64),
        "int8": (16, 128),
    },
}


def default_backend(dtype: str) -> str:
    """Returns the first back end that has kernels of a dtype."""
    return next(backend for backend in BACKENDS if dtype in _MULTIPLES[backend])


def kernel_matrix(weight: np.ndarray, axes: Axes) -> np.ndarray:
    """Returns the matrix [O, K] that the kernel sees, inputs fastest; [S·O, K] of a stack."""
    ordered = weight.transpose(axes.stack + axes.outputs + axes.window + axes.inputs)
    rows = np.prod([weight.shape[axis] for axis in axes.stack + axes.outputs], dtype=int)
    return ordered.reshape(int(rows), -1)


def most_in_a_run(matrix: np.ndarray, run: int) -> int:
    """Counts the weights other than zero in each run of a row and returns the largest count.

    Args:
        matrix: [O, K]; a short last run counts as it is.
        run: its length.
    """
    padded = np.pad(matrix != 0, ((0, 0), (0, -matrix.shape[1] % run)))
    return int(padded.reshape(matrix.shape[0], -1, run).sum(2).max(initial=0))


def has_pattern(matrix: np.ndarray, dtype: str) -> bool:
    """Says whether a matrix [O, K] has the zeros that the kernels of a dtype need."""
    kept, run = _RUN.get(dtype, (2, 4))
    return most_in_a_run(matrix, run) <= kept


def always_fits(nm: NM, dtype: str) -> bool:
    """Says whether every N:M kernel (inputs a multiple of M) has the zeros that a dtype needs.

    N <= 2 with 4 | M, and 1:2; in float32 N = 1 with 2 | M.
    """
    kept, run = _RUN.get(dtype, (2, 4))
    return (nm.n <= kept and nm.m % run == 0) or (nm.n, nm.m) == (1, 2)


def why_not(matrix: np.ndarray, nm: NM, dtype: str, backend: str, *, groups: int = 1) -> str:
    """Returns '' where a weight can run sparse, else the first reason why it cannot.

    Args:
        matrix: [O, K], as written.
        nm: of its scheme; N == M is dense.
        dtype: of the weights on the GPU.
        backend: 'cusparselt' or 'cutlass'.
        groups: of the convolution.
    """
    kept, run = _RUN.get(dtype, (2, 4))
    if nm.n == nm.m:
        return "dense"
    if groups > 1:
        return f"grouped convolution ({groups} groups)"
    if not has_pattern(matrix, dtype):
        return f"{nm} is no {kept}:{run} pattern, which {dtype} kernels take"
    if dtype not in _MULTIPLES[backend]:
        return f"{backend} has no {dtype} kernel"
    for size, multiple, what in zip(
        matrix.shape, _MULTIPLES[backend][dtype], ("rows", "columns"), strict=True
    ):
        if size % multiple:
            return f"{size} {what} are no multiple of {multiple} ({backend}, {dtype})"
    return ""

"""Which weights PyTorch's semi-structured ("2:4") kernels can take, judged on the arrays.

The kernel sees a matrix (outputs, window · inputs), inputs fastest; `deploy.sparse24` says which
zeros and sizes it takes.

Letters: O outputs, K columns (window positions times inputs).
"""

import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.scheme import NM
from domino_jax.deploy import sparse24


def kernel_matrix(weight: np.ndarray, axes: Axes) -> np.ndarray:
    """Returns the matrix [O, K] that the kernel sees, inputs fastest; [S·O, K] of a stack."""
    ordered = weight.transpose(axes.stack + axes.outputs + axes.window + axes.inputs)
    rows = np.prod([weight.shape[axis] for axis in axes.stack + axes.outputs], dtype=int)
    return ordered.reshape(int(rows), -1)


def most_in_a_run(matrix: np.ndarray, run: int) -> int:
    """Counts the weights other than zero in each run of a row and returns the largest count.

    Args:
        matrix: [O, K]; a short last run counts as it is.
        run: its length; one above K is the whole row.
    """
    run = min(run, max(matrix.shape[1], 1))
    padded = np.pad(matrix != 0, ((0, 0), (0, -matrix.shape[1] % run)))
    return int(padded.reshape(matrix.shape[0], -1, run).sum(2).max(initial=0))


def has_pattern(matrix: np.ndarray, dtype: str) -> bool:
    """Says whether a matrix [O, K] has the zeros that the kernels of a dtype need."""
    kept, run = sparse24.pattern(dtype)
    return most_in_a_run(matrix, run) <= kept


def why_not(matrix: np.ndarray, nm: NM, dtype: str, backend: str) -> str:
    """Returns '' where a weight can run sparse, else the first reason why it cannot.

    Args:
        matrix: [O, K], as written.
        nm: of its scheme; N == M is dense.
        dtype: of the weights on the GPU.
        backend: 'cusparselt' or 'cutlass'.
    """
    kept, run = sparse24.pattern(dtype)
    if nm.n == nm.m:
        return "dense"
    if not has_pattern(matrix, dtype):
        return f"{nm} is no {kept}:{run} pattern, which {dtype} kernels take"
    rows, columns = matrix.shape
    return sparse24.why_not_shape(rows, columns, dtype, backend)

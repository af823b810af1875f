"""What PyTorch's semi-structured ("2:4") kernels take: patterns and shapes, standard library only.

A kernel sees a matrix of rows (outputs) and columns (window · inputs, inputs fastest). Of every run
of 4 columns at most 2 weights may differ from zero; in float32 of every 2 at most 1.
"""

import math

DTYPES = ("float32", "float16", "bfloat16")
PATTERNS = {"float32": (1, 2), "float16": (2, 4), "bfloat16": (2, 4)}  # kept, of a run
# Rows and columns must be multiples of: torch/sparse/semi_structured.py of PyTorch 2.13.
MULTIPLES = {
    "cusparselt": {"float16": (16, 16), "bfloat16": (16, 16)},
    "cutlass": {"float32": (32, 32), "float16": (32, 64), "bfloat16": (32, 64)},
}
BACKENDS = tuple(MULTIPLES)


def pattern(dtype: str) -> tuple[int, int]:
    """Returns (kept, run): of every `run` columns the kernels of a dtype take at most `kept`."""
    return PATTERNS.get(dtype, (2, 4))


def default_backend(dtype: str) -> str:
    """Returns the first back end that has kernels of a dtype."""
    return next(backend for backend in BACKENDS if dtype in MULTIPLES[backend])


def always_fits(n: int, m: int, dtype: str) -> bool:
    """Says whether every matrix that keeps at most n of every m columns has the kernels' pattern.

    2:4 holds for N <= 2 with 4 dividing M, and for N = 1 with any M but 1; 1:2 holds for N = 1 with
    an even M.
    """
    kept, run = pattern(dtype)
    period = math.lcm(m, run)
    return all(_most(start, run, n, m) <= kept for start in range(0, period, run))


def _most(start: int, run: int, n: int, m: int) -> int:
    """Counts the most weights that the run from column `start` may hold, at most n of a group."""
    columns = range(start, start + run)
    groups = {column // m for column in columns}
    return sum(min(n, sum(column // m == group for column in columns)) for group in groups)


def why_not_shape(rows: int, columns: int, dtype: str, backend: str) -> str:
    """Returns '' where a back end takes a matrix of this size unpadded, else the first reason."""
    if dtype not in MULTIPLES[backend]:
        return f"{backend} has no {dtype} kernel"
    sizes = zip((rows, columns), MULTIPLES[backend][dtype], ("rows", "columns"), strict=True)
    for size, multiple, what in sizes:
        if size % multiple:
            return f"{size} {what} are no multiple of {multiple} ({backend}, {dtype})"
    return ""

"""Which N:M always are what the kernels take, against brute force over their patterns."""

import itertools
import math

import numpy as np
import pytest

from domino_jax.deploy import sparse24

LARGEST_M = 32
ALL = 4  # groups of up to this many weights are tried in every combination of their patterns


def _fits(row, kept, run):
    return np.add.reduceat(row, range(0, len(row), run)).max() <= kept


def _every_row(n, m, run):
    """Yields every row of groups that keep n of m, until groups and runs meet again."""
    groups = math.lcm(m, run) // m
    kinds = [np.isin(np.arange(m), kept) for kept in itertools.combinations(range(m), n)]
    for row in itertools.product(kinds, repeat=groups):
        yield np.concatenate(row).astype(int)


def _every_run(n, m, run):
    """Yields what any one run can look like: each group has n weights or fewer in its part."""
    for start in range(0, math.lcm(m, run), run):
        group = np.arange(start, start + run) // m
        for bits in itertools.product((0, 1), repeat=run):
            if np.bincount(group - group[0], bits).max() <= n:
                yield np.array(bits)


@pytest.mark.parametrize("dtype", sparse24.DTYPES)
def test_the_rule_is_brute_force(dtype):
    kept, run = {"float32": (1, 2), "float16": (2, 4), "bfloat16": (2, 4)}[dtype]
    tried = 0
    for m in range(1, LARGEST_M + 1):
        for n in range(1, m + 1):
            truth = all(_fits(row, kept, run) for row in _every_run(n, m, run))
            assert sparse24.always_fits(n, m, dtype) == truth, (n, m)
            if m <= ALL:
                assert truth == all(_fits(row, kept, run) for row in _every_row(n, m, run)), (n, m)
            tried += 1
    assert tried == LARGEST_M * (LARGEST_M + 1) // 2


@pytest.mark.parametrize(
    ("dtype", "n_of_m"),
    [
        ("float16", {*((1, m) for m in range(2, 33)), *((2, m) for m in range(4, 33, 4))}),
        ("float32", {(1, m) for m in range(2, 33, 2)}),
    ],
)
def test_the_rule_by_hand(dtype, n_of_m):
    every = [(n, m) for m in range(1, 33) for n in range(1, m + 1)]
    assert {pair for pair in every if sparse24.always_fits(*pair, dtype)} == n_of_m


def test_every_dtype_has_a_backend():
    assert [sparse24.default_backend(dtype) for dtype in sparse24.DTYPES] == [
        "cutlass",
        "cusparselt",
        "cusparselt",
    ]

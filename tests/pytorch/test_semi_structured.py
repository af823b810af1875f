"""What 2:4 kernels take: the matrix that they see, patterns and shapes."""

import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.scheme import NM
from domino_jax.pytorch.semi_structured import kernel_matrix, why_not

CONV = Axes((), (2, 3), (1,), (0,))


def test_the_matrix_of_a_convolution_has_inputs_fastest():
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = kernel_matrix(weight, CONV)
    np.testing.assert_array_equal(matrix[0], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])


def test_reasons():
    good = np.tile([1.0, 1, 0, 0], (32, 16))
    half = NM(2, 4)
    assert why_not(good, half, "float16", "cusparselt") == ""
    assert why_not(good, half, "float16", "cutlass") == ""
    assert why_not(good, NM(4, 4), "float16", "cutlass") == "dense"
    assert "no 1:2 pattern" in why_not(good, half, "float32", "cutlass")
    assert "40 rows are no multiple of 16" in why_not(
        np.tile([1.0, 0, 1, 0], (40, 16)), half, "bfloat16", "cusparselt"
    )
    assert "80 columns are no multiple of 64" in why_not(
        np.tile([1.0, 0, 1, 0], (32, 20)), half, "bfloat16", "cutlass"
    )
    ones = np.tile([1.0, 0], (32, 16))
    assert "no float32 kernel" in why_not(ones, NM(1, 2), "float32", "cusparselt")

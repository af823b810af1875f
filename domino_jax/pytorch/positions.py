"""Positions of a vision transformer at another image size, as torchvision resizes them.

Letters: L positions, the class token's first; S patches of a side, L = S² + 1; C channels.
"""

import math

import numpy as np

from domino_jax.core.errors import InputError

NAME = "encoder.pos_embedding"
_A = -0.75  # of the cubic kernel (Keys 1981), as PyTorch has it


def resized(table: np.ndarray, length: int) -> np.ndarray:
    """Interpolates a table of positions; the class token's row stays.

    As torchvision's `interpolate_embeddings`: the rest is a square grid, resized bicubically with
    its corners aligned.

    Args:
        table: [1, L, C].
        length: L of the result.

    Returns:
        [1, length, C] of the same dtype.

    Raises:
        InputError: one of the two is no class token and a square grid.
    """
    old, new = (_side(positions) for positions in (table.shape[1], length))
    weights = _weights(old, new)
    grid = table[0, 1:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("ri,cj,ijk->rck", weights, weights, grid)
    rows = grid.reshape(new * new, -1).astype(table.dtype)
    return np.concatenate([table[0, :1], rows])[None]


def _side(length: int) -> int:
    side = math.isqrt(max(length - 1, 0))
    if side < 1 or side * side != length - 1:
        raise InputError(
            f"{NAME!r}: positions are resized between square images, 1 + S x S of them; got "
            f"{length}: give the network square images, or those that the file was trained with"
        )
    return side


def _weights(old: int, new: int) -> np.ndarray:
    """Returns the weights [new, old] of bicubic interpolation along one side.

    Place i of `new` lies at i · (old - 1) / (new - 1) of `old`; the four places around it count by
    the cubic kernel, those beyond an end as the end itself.
    """
    at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    first = np.floor(at).astype(int)
    weights = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        share = _cubic(np.abs(at - first - step))
        place = np.clip(first + step, 0, old - 1)
        np.add.at(weights, (np.arange(new), place), share)
    return weights


def _cubic(x: np.ndarray) -> np.ndarray:
    near = (_A + 2) * x**3 - (_A + 3) * x**2 + 1
    far = _A * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))

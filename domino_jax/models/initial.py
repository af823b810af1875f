"""Fresh weights drawn with NumPy: a draw depends on the seed and the parameter's path alone.

So the weights are the same for every version of JAX and every order of the pytree, and nothing
has to be compiled to make them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from domino_jax.core import paths
from domino_jax.core.errors import InputError

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def fill(shapes: Any, seed: int, draws: paths.Rules = ()) -> Any:
    """Draws a value for every leaf: by a rule of the network, or by its name as torchvision does.

    Without a rule a convolution's `kernel` (HWIO) is normal with variance 2 / fan-out (He et al.
    2015); a linear layer's (IO) and the `bias` beside either are uniform in ±1/√fan-in (PyTorch's
    default); `scale` and `var` are 1, everything else is 0.

    Args:
        shapes: nested dicts of `jax.ShapeDtypeStruct`.
        seed: a non-negative integer.
        draws: pairs (regex, `Draw`), the first regex found in the path wins.

    Returns:
        The same nested dicts with JAX arrays.

    Raises:
        InputError: the seed is negative, or a regex matches no leaf.
    """
    if seed < 0:
        raise InputError(f"seed must be a non-negative integer, got {seed}")
    leaves = paths.leaves_by_path(shapes)
    paths.require_used(draws, leaves)
    values = {}
    for path, leaf in leaves.items():
        owner, _, name = path.rpartition("/")
        kernel = leaves.get(f"{owner}/kernel" if owner else "kernel")
        rng = np.random.default_rng([seed, *path.encode()])
        draw = paths.first_match(draws, path)
        value = (
            _draw(rng, name, leaf.shape, None if kernel is None else kernel.shape)
            if draw is None
            else draw(rng, tuple(leaf.shape))
        )
        values[path] = jnp.asarray(value, leaf.dtype)
    return paths.replace_leaves(shapes, values)


def normal(std: float) -> Draw:
    """Makes a draw from the normal distribution with mean 0."""
    return lambda rng, shape: rng.standard_normal(shape, np.float32) * np.float32(std)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a matrix uniform in ±√(6 / (inputs + outputs)) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws nothing: all zero."""
    del rng
    return np.zeros(shape, np.float32)


def _draw(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], kernel: tuple[int, ...] | None
) -> np.ndarray:
    """Draws one float32 leaf; `kernel`: shape of the kernel that it belongs to, or None."""
    if kernel is None or name not in ("kernel", "bias"):
        return np.full(shape, name in ("scale", "var"), np.float32)
    if name == "kernel" and len(kernel) > 2:
        fan_out = math.prod(kernel) // kernel[-2]
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))
    bound = 1 / math.sqrt(math.prod(kernel[:-1]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)

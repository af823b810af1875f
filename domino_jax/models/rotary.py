"""Rotary position embeddings (Su et al. 2021) and the rules by which networks stretch them.

Letters: B examples, T positions, H heads, D channels of a head.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.paths import require_known

_LEAST, _MOST = 1e-30, 1e30  # between which no rule overflows in float32

Frequencies = tuple[np.ndarray, float]  # radians a position, float64 [D / 2]; what scales the rest


def frequencies(rope: Mapping[str, Any], *, size: int, positions: int) -> Frequencies:
    """Computes the angles by which a network turns its queries and keys from position to position.

    Args:
        rope: 'rope_theta', 'rope_type' and what that rule needs, as in a config.json.
        size: D, even.
        positions: the most that the network takes.

    Returns:
        Radians of one position, [D / 2], and the factor of the sines and cosines.

    Raises:
        InputError: an unknown rule, or one that lacks a number or has another value.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    require_known([str(kind)], list(RULES), what="rule of rotary embeddings (rope_type)")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("partial_rotary_factor: expected 1, got another: it is not supported")
    plain = _number(rope, "rope_theta") ** -(np.arange(0, size, 2) / size)
    return RULES[kind](plain, rope, positions)


def _unchanged(plain: np.ndarray, rope: Mapping[str, Any], positions: int) -> Frequencies:
    del rope, positions
    return plain, 1.0


def _linear(plain: np.ndarray, rope: Mapping[str, Any], positions: int) -> Frequencies:
    del positions
    return plain / _number(rope, "factor"), 1.0


def _llama3(plain: np.ndarray, rope: Mapping[str, Any], positions: int) -> Frequencies:
    """Divides the slow ones, keeps the fast ones, and goes from one to the other between."""
    factor, low, high = (
        _number(rope, key) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = _original(rope, positions) * plain / (2 * math.pi)
    if high <= low:
        raise InputError(
            f"high_freq_factor: expected above low_freq_factor = {low:g}, got {high:g}"
        )
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * plain / factor + kept * plain, 1.0


def _yarn(plain: np.ndarray, rope: Mapping[str, Any], positions: int) -> Frequencies:
    """Peng et al. 2023, as transformers computes it."""
    size, theta, original = 2 * len(plain), _number(rope, "rope_theta"), _original(rope, positions)
    factor = _number(rope, "factor") if rope.get("factor") else positions / original
    if theta == 1:
        raise InputError("rope_theta of the rotary embeddings: expected another than 1 for yarn")

    def dim(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    fast = _number(rope, "beta_fast") if rope.get("beta_fast") else 32.0
    slow = _number(rope, "beta_slow") if rope.get("beta_slow") else 1.0
    low, high = dim(fast), dim(slow)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    # The narrowest ramp is that of transformers.
    width = (high - low) or 0.001
    kept = 1 - np.clip((np.arange(len(plain)) - low) / width, 0, 1)
    return (1 - kept) * plain / factor + kept * plain, _yarn_scale(rope, factor)


def _yarn_scale(rope: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(_number(rope, "mscale")) / scale(_number(rope, "mscale_all_dim"))
    return scale(1.0)


def _original(rope: Mapping[str, Any], positions: int) -> float:
    key = "original_max_position_embeddings"
    return _number(rope, key) if rope.get(key) else float(positions)


def _number(rope: Mapping[str, Any], key: str) -> float:
    value = rope.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or not is_number or not _LEAST <= value <= _MOST:
        raise InputError(
            f"{key} of the rotary embeddings: expected a number from {_LEAST:g} to {_MOST:g}, "
            f"got {value!r}"
        )
    return float(value)


RULES: Mapping[str, Callable[[np.ndarray, Mapping[str, Any], int], Frequencies]] = {
    "default": _unchanged,
    # Dynamic scaling begins beyond the positions that the network takes, which we refuse.
    "dynamic": _unchanged,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def angles(found: Frequencies, length: int) -> tuple[jax.Array, jax.Array]:
    """Computes cosines and sines of all positions: float32 [T, D / 2] each."""
    each, scale = found
    turned = np.arange(length)[:, None] * each[None]
    cosines, sines = (jnp.asarray(f(turned) * scale, jnp.float32) for f in (np.cos, np.sin))
    return cosines, sines


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turns channel d of a head together with channel d + D / 2: [B, T, H, D] to the same."""
    cos, sin = (part[None, :, None].astype(x.dtype) for part in (cosines, sines))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

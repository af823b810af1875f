"""What the penalty alone makes of the magnitudes of a layer's groups, many decays at once.

Every decay takes the same amount off the logarithms of the n largest of a group. With a positive
amount they sink, and one that sinks below a weight that was left alone changes places with it.
After k decays the outcome is that of picking the n·k largest of all the values that weights can
have on their way down, at most k of each weight (M piles of coins, the n tallest give one each
time). So `times` decays are one step: a water level, found by Newton's method, and the largest
remainders.

Letters: M group size, G groups of a layer, H some of them.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

_AT_ONCE = 1 << 15  # groups: what is made of them fits the cache
_THREADS = min(os.cpu_count() or 1, 8)
_NEAR = 1e-8  # of a decay: a water level that is so near rounds to the same decays
_ITERATIONS = 200  # bisections alone end sooner


class Decays(NamedTuple):
    """Equal decays one after another.

    Attributes:
        n: how many weights of each group they reach: the largest.
        amount: taken off each logarithm; negative where weights grow.
        times: how many.
    """

    n: int
    amount: float
    times: int


def amount_of(rate: float) -> float:
    """Returns what w -> w - rate · w takes off the logarithm of |w|."""
    return -math.log(max(abs(1 - rate), np.finfo(float).tiny))


def log_ratios(magnitudes: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Returns the logarithms of magnitudes over the threshold of their group, largest first.

    A weight is above its threshold where that is above 0.

    Args:
        magnitudes: [M, G], 0 or more.
        threshold: [G], 0 or more.

    Returns:
        [M, G], the dtype of the threshold; -inf for zeros.
    """
    logs = np.empty(magnitudes.shape, threshold.dtype)
    for start in range(0, magnitudes.shape[1], _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        of_group = magnitudes[:, part].astype(float).T
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.log(threshold[part].astype(float))
            logs[:, part] = np.where(of_group > 0, np.log(of_group) - level[:, None], -np.inf).T
        logs[:, part] = _falling(logs[:, part])
    return logs


def after(logs: np.ndarray, decays: Decays, *, below: bool) -> np.ndarray:
    """Returns the logarithms after some decays.

    Args:
        logs: [M, G], falling along M.
        decays: what happens to them.
        below: whether weights that are not above their threshold matter, too: they do once a layer
            grows. Else they may be out of place afterwards, though never above 0.

    Returns:
        [M, G], falling along M.
    """
    logs = logs.copy()
    parts = np.array_split(logs, _parts(logs.shape[1]), axis=1)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda part: _decay(part, decays, below=below), parts))
    return logs


def _parts(groups: int) -> int:
    """Says in how many parts of equal size groups are gone through: as many for each thread."""
    if groups <= _AT_ONCE // 2:
        return 1
    return -(-groups // (_AT_ONCE * _THREADS)) * _THREADS


def _decay(logs: np.ndarray, decays: Decays, *, below: bool) -> None:
    """Changes logarithms in place, as `after`."""
    n, amount, times = decays
    total = amount * times
    if total <= 0 or n == len(logs):
        logs[:n] -= total
        return
    mixed = np.flatnonzero((logs[n - 1] - total < logs[n]) & (below | (logs[n] > 0)))
    of_mixed = np.take(logs, mixed, axis=1).astype(float)
    logs[:n] -= total
    if len(mixed):
        logs[:, mixed] = _falling(of_mixed - amount * _counts(of_mixed, decays))


def _falling(logs: np.ndarray) -> np.ndarray:
    """Sorts each column of [M, H], the largest first."""
    return -np.sort(-logs.T, axis=1).T


def _counts(logs: np.ndarray, decays: Decays) -> np.ndarray:
    """Returns how many of the decays reach each weight of groups where places change: [M, H]."""
    n, amount, times = decays
    if times == 1:  # places change afterwards only
        alone = np.zeros_like(logs)
        alone[:n] = 1
        return alone
    heights = (logs - logs[n]) / amount
    shares = heights - _level(heights, n, times)
    np.clip(shares, 0, times, out=shares)
    counts = np.floor(shares)
    rests = shares - counts
    missing = np.rint(n * times - counts.sum(0)).astype(int)
    rising = np.sort(rests.T, axis=1)
    least = rising[np.arange(len(rising)), len(logs) - np.maximum(missing, 1)]
    larger, level = (rests > least) & (missing > 0), (rests == least) & (missing > 0)
    # Of weights that are equal the upper ones, as many as are missing.
    counts += larger | (level & (_ranks(level) <= missing - _number(larger)))
    return counts


def _number(marks: np.ndarray) -> np.ndarray:
    """Counts the marks of each column: [M, H] -> [H]. NumPy sums bools slowly."""
    return np.add.reduce(marks.view(np.int8), axis=0, dtype=_narrow(marks))


def _ranks(marks: np.ndarray) -> np.ndarray:
    """Counts the marks of each column down to each place: [M, H]."""
    return np.cumsum(marks.view(np.int8), axis=0, dtype=_narrow(marks))


def _narrow(marks: np.ndarray) -> type[np.signedinteger[Any]]:
    return np.int8 if len(marks) <= np.iinfo(np.int8).max else np.int32


def _level(heights: np.ndarray, n: int, times: int) -> np.ndarray:
    """Finds the level above which n · times of the heights lie, at most `times` of each: [H].

    Args:
        heights: [M, H], in decays; those of row n are 0, those of n - 1 the least that are above.
        n: rows that would sink if none changed places.
        times: decays.
    """
    level = np.zeros(heights.shape[1])
    low, high, guess = heights[n - 1] - times, level, level
    left = np.arange(heights.shape[1])  # columns whose level is still sought
    for _ in range(_ITERATIONS):
        above = heights - guess
        slope = _number((above > 0) & (above < times))
        excess = np.clip(above, 0, times, out=above).sum(0) - n * times
        level[left] = guess
        open_ = np.flatnonzero(np.abs(excess) >= _NEAR)
        if not len(open_):
            break
        left, heights = left[open_], np.take(heights, open_, axis=1)
        guess, excess, slope = guess[open_], excess[open_], slope[open_]
        low = np.where(excess > 0, guess, low[open_])
        high = np.where(excess < 0, guess, high[open_])
        newton = guess + excess / np.maximum(slope, 1)
        inside = (slope > 0) & (newton > low) & (newton < high)
        guess = np.where(inside, newton, (low + high) / 2)
    return level

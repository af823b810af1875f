"""One item of every row, at the least total loss, within one or several limits.

An integer program, solved by HiGHS through `scipy.optimize.milp`. Three things make it quick and
exact. The prices of the linear relaxation say how much each item adds to the least loss; an item
that adds more than the best choice known is above that least is left out (of 300 rows of 16 items
a few dozen stay open). The objective is scaled so that HiGHS's absolute tolerance is nothing. What
HiGHS returns is checked in integers; a choice above a limit is cut off, and HiGHS asked again.

Letters: R rows (layers), K items of a row (candidates), L limits.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # imported where they are used: 0.4 s, which most starts need not pay
    from scipy import sparse

# HiGHS stops at an absolute gap of 1e-6, and scipy does not pass that setting on.
_SCALE = 1e4
# Limits are at most this to HiGHS: with coefficients of 16 digits it cuts off choices that fit.
_LIMIT = 1e6
# Integers up to here are exact as floats, and so are their sums.
_EXACT = 2**50
# Choices above a limit that are cut off before HiGHS is given up.
_CUTS = 20
# Open items of the first, small program; its choice shrinks the whole one.
_CORE = 60
# What floats may get wrong in a sum of losses, as a share of it.
_ROUNDING = 1e-11


class Choice(NamedTuple):
    """What was picked.

    Attributes:
        items: of each row the number of its item.
        gap: how far the loss may be from the least, as a share of it; 0 where it is the least.
    """

    items: tuple[int, ...]
    gap: float


class _Table(NamedTuple):
    """The program in arrays; what every choice loses and costs is taken off.

    Attributes:
        loss: [R, K], 0 or more; infinite where a row has no such item.
        cost: [L, R, K], 0 or more, integers.
        left: [L], integers.
    """

    loss: np.ndarray
    cost: np.ndarray
    left: np.ndarray

    def total(self, items: np.ndarray | None) -> float:
        """Adds up the loss of a choice; infinite for none."""
        return math.inf if items is None else math.fsum(self.loss[np.arange(len(items)), items])

    def rest(self, items: np.ndarray) -> np.ndarray:
        """Returns what a choice leaves of the limits."""
        return self.left - self.cost[:, np.arange(len(items)), items].sum(1)


def least_loss(
    losses: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[int]]],
    allowed: Sequence[int],
    *,
    seconds: float,
) -> Choice | None:
    """Picks one item of every row: the least sum of losses with no sum of costs above its limit.

    Args:
        losses: of every row and item; finite.
        costs: for each limit, of every row and item.
        allowed: the limits.
        seconds: after which the best choice so far is taken.

    Returns:
        None where no choice is within the limits.

    Raises:
        TimeoutError: none was found in that time; with one limit it always is.
    """
    end = time.monotonic() + seconds
    table = _table(losses, costs, allowed)
    prices = _prices(table)
    if prices is None:
        return None
    reduced = table.loss + np.tensordot(prices, table.cost, 1)
    lowest = reduced.min(1, keepdims=True)
    bound = float(lowest.sum() - prices @ table.left)
    reduced -= lowest
    best = _climb(table, prices)
    small = np.sort(reduced, axis=None)[: len(losses) + _CORE].max()
    best, _ = _improve(table, reduced <= small, best, time.monotonic() + seconds / 3)
    spare = _ROUNDING * (1 + abs(bound))
    best, lower = _improve(table, reduced <= table.total(best) - bound + spare, best, end)
    if best is None:
        if math.isinf(lower):
            return None
        raise TimeoutError(f"no choice within the limits was found in {seconds:g} s")
    total = table.total(best)
    gap = 1 - max(bound, lower) / total if total > 0 else 0.0
    return Choice(tuple(best.tolist()), gap if gap > _SCALE * _ROUNDING else 0.0)


def _table(
    losses: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[int]]],
    allowed: Sequence[int],
) -> _Table:
    width = max(map(len, losses))
    loss = np.full((len(losses), width), np.inf)
    cost = np.zeros((len(costs), len(losses), width), np.int64)
    left = np.zeros(len(costs), np.int64)
    for row, values in enumerate(losses):
        loss[row, : len(values)] = np.asarray(values) - min(values)
    for limit, (rows, most) in enumerate(zip(costs, allowed, strict=True)):
        above, left[limit] = _in_small_numbers(rows, most)
        for row, values in enumerate(above):
            cost[limit, row, : len(values)] = values
    return _Table(loss, cost, left)


def _in_small_numbers(costs: Sequence[Sequence[int]], allowed: int) -> tuple[list[list[int]], int]:
    """Takes off what every choice costs, and common factors.

    Numbers too large for floats are divided, costs rounded up and the limit down: what is within
    the limit then is so indeed.
    """
    rows = [[cost - min(row) for cost in row] for row in costs]
    left = allowed - sum(min(row) for row in costs)
    factor = math.gcd(*(cost for row in rows for cost in row)) or 1
    most = sum(max(row) for row in rows) // factor
    divisor = factor * max(1, -(-most // _EXACT))
    return [[-(-cost // divisor) for cost in row] for row in rows], min(left // divisor, most)


def _prices(table: _Table) -> np.ndarray | None:
    """Returns what one unit of each limit is worth in the linear relaxation, [L]; None: no choice.

    Any prices of 0 or more give a true bound; these give the best one.
    """
    from scipy import optimize, sparse  # noqa: PLC0415 (as above)

    program = _program(table, np.isfinite(table.loss))
    share = np.maximum(program.limits, 1)
    with _silent():
        result = optimize.linprog(
            program.loss,
            A_ub=sparse.csr_array(program.costs / share[:, None]),
            b_ub=program.limits / share,
            A_eq=program.ones,
            b_eq=np.ones(len(table.loss)),
            bounds=(0, 1),
            method="highs",
        )
    if result.status == 2:
        return None
    if result.status != 0:
        return np.zeros(len(table.left))
    return np.maximum(-result.ineqlin.marginals, 0) * program.unit / (share * program.scale)


def _climb(table: _Table, prices: np.ndarray) -> np.ndarray | None:
    """Starts from the cheapest items and takes the steps that save most loss for their price.

    Returns:
        None where those items are above a limit: an item may be cheap by one and dear by another.
    """
    rows = np.arange(len(table.loss))
    share = (table.cost / (1 + table.left)[:, None, None]).sum(0)
    items = np.where(np.isfinite(table.loss), share, np.inf).argmin(1)
    if (table.rest(items) < 0).any():
        return None
    while True:
        saved = table.loss[rows, items][:, None] - table.loss
        price = table.cost - table.cost[:, rows, items][:, :, None]
        fits = (price <= table.rest(items)[:, None, None]).all(0) & (saved > 0)
        if not fits.any():
            return items
        worth = np.tensordot(prices, price, 1).clip(np.finfo(float).tiny)
        with np.errstate(over="ignore"):
            row, item = np.unravel_index(np.where(fits, saved / worth, -1).argmax(), fits.shape)
        items[row] = item


def _improve(
    table: _Table, open_items: np.ndarray, best: np.ndarray | None, end: float
) -> tuple[np.ndarray | None, float]:
    """Looks for the best choice of the open items.

    Returns:
        That or the best one so far, and a lower bound of both.
    """
    cuts: list[np.ndarray] = []
    lower = 0.0
    while len(cuts) < _CUTS:
        items, lower = _solve(table, open_items, cuts, max(end - time.monotonic(), 0.1))
        if items is None or (table.rest(items) >= 0).all():
            better = table.total(items) < table.total(best)
            best = items if better else best
            break
        cuts.append(items)
    return best, min(lower, table.total(best))


class _Program(NamedTuple):
    """The open items in a row, V of them.

    Attributes:
        rows: the row of each, [V].
        items: its number there, [V].
        loss: [V], in units.
        unit: the loss that is 1 in the objective.
        costs: [L, V].
        limits: [L]; costs are in the same units, in which large ones are not.
        scale: how many are one of them, [L].
        ones: [R, V], 1 where the item is of the row.
    """

    rows: np.ndarray
    items: np.ndarray
    loss: np.ndarray
    unit: float
    costs: np.ndarray
    limits: np.ndarray
    scale: np.ndarray
    ones: "sparse.csr_array"


def _program(table: _Table, open_items: np.ndarray) -> _Program:
    from scipy import sparse  # noqa: PLC0415 (as above)

    rows, items = np.nonzero(open_items & np.isfinite(table.loss))
    loss = table.loss[rows, items]
    unit = float(loss.max()) / _SCALE or 1.0
    ones = sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    scale = np.maximum(table.left / _LIMIT, 1)
    costs = table.cost[:, rows, items] / scale[:, None]
    return _Program(rows, items, loss / unit, unit, costs, table.left / scale, scale, ones)


def _solve(
    table: _Table, open_items: np.ndarray, cuts: Sequence[np.ndarray], seconds: float
) -> tuple[np.ndarray | None, float]:
    """Asks HiGHS for the best choice, and for a lower bound; infinite where there is no choice."""
    from scipy import optimize  # noqa: PLC0415 (as above)

    program = _program(table, open_items)
    constraints = [
        optimize.LinearConstraint(program.ones, 1, 1),
        optimize.LinearConstraint(program.costs, -np.inf, program.limits),
    ]
    for cut in cuts:
        picked = (cut[program.rows] == program.items).astype(float)
        constraints.append(optimize.LinearConstraint(picked[None], -np.inf, len(cut) - 1))
    with _silent():
        result = optimize.milp(
            program.loss,
            integrality=np.ones(len(program.rows)),
            bounds=optimize.Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0, "time_limit": seconds},
        )
    if result.status == 2:
        return None, math.inf
    bound = result.get("mip_dual_bound")
    lower = program.unit * bound if bound is not None and math.isfinite(bound) else 0.0
    if result.x is None:
        return None, lower
    items = np.zeros(len(table.loss), int)
    picked = result.x > 0.5
    items[program.rows[picked]] = program.items[picked]
    return items, lower


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps what HiGHS prints, past Python, off the standard output: that holds results only."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

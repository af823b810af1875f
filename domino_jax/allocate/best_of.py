"""Never worse than uniform: schemes compared by the true loss of the network that they make.

A table adds up what layers cost one by one, and other methods do not ask the loss at all. What
layers cost together is measured, on batches that no table was made from, for uniform and for the
scheme of a method with no floor and with floors on n of 1/2 and 3/4 of uniform's n, of one less
than it and of all of it. The best one is taken, if what it gains over uniform is more than the
noise of the batches.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from domino_jax.allocate.exact import exact_scheme, within_bounds
from domino_jax.allocate.loss_table import LossTable
from domino_jax.allocate.uniform import uniform_scheme
from domino_jax.core.costs import Budget
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.scheme import Scheme

UNIFORM = "uniform"
FLOORS: Mapping[str, Callable[[int], int]] = {
    "n >= 1/2 of uniform's": lambda n: -(-n // 2),
    "n >= 3/4 of uniform's": lambda n: -(-3 * n // 4),
    "n >= uniform's - 1": lambda n: n - 1,
    "n >= uniform's": lambda n: n,  # uniform, and what it leaves of the budget spent
}


class Candidate(NamedTuple):
    """A scheme to compare.

    Attributes:
        name: which floors it has.
        scheme: of the grouped layers.
        gap: share of the rise that the solver could have saved at most; 0: it found the least.
    """

    name: str
    scheme: Scheme
    gap: float = 0.0


class Trial(NamedTuple):
    """A scheme that was compared.

    Attributes:
        name: which floors it has.
        scheme: of the grouped layers.
        predicted: the loss that a table expects: that of the dense network and the rises; None
            where there is no table.
        true: mean loss over the batches kept apart.
        gap: as of the candidate.
    """

    name: str
    scheme: Scheme
    predicted: float | None
    true: float
    gap: float = 0.0


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leaves out what has the scheme of one before it."""
    found: list[Candidate] = []
    for candidate in candidates:
        if all(candidate.scheme != other.scheme for other in found):
            found.append(candidate)
    return found


def try_each(
    candidates: Sequence[Candidate],
    true_losses: Callable[[Scheme], Sequence[float]],
    predicted: Callable[[Scheme], float] | None = None,
) -> list[Trial]:
    """Measures schemes, each once; those that gain over uniform first, the best of them in front.

    A rival of uniform is taken where its gain is above the standard error of the paired gains, of
    which one batch has none.

    Args:
        candidates: at least one; of equal losses the first wins.
        true_losses: scheme -> mean loss of each batch, of the same ones for every scheme.
        predicted: scheme -> the loss that a table expects.
    """
    trials: list[Trial] = []
    measured: dict[str, Sequence[float]] = {}
    for name, scheme, gap in distinct(candidates):
        expected = predicted(scheme) if predicted else None
        measured[name] = true_losses(scheme)
        trials.append(Trial(name, scheme, expected, statistics.fmean(measured[name]), gap))
    uniform = measured.get(UNIFORM)
    noisy = {
        name
        for name, losses in measured.items()
        if uniform is not None and name != UNIFORM and not _is_gain(losses, uniform)
    }
    return sorted(trials, key=lambda trial: (trial.name in noisy, trial.true))


def _is_gain(losses: Sequence[float], uniform: Sequence[float]) -> bool:
    gains = [there - here for here, there in zip(losses, uniform, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return statistics.fmean(gains) > error


def of_table(
    layers: Sequence[LayerSpec], table: LossTable, budgets: Sequence[Budget]
) -> list[Candidate]:
    """Lists the best scheme of a table, uniform, and the table's best with each floor.

    Raises:
        InputError: the budgets are out of reach.
    """
    best = exact_scheme(layers, table, budgets)
    found = [Candidate("no floor", best.scheme, best.gap)]
    uniform = _uniform(layers, budgets)
    if uniform is None:
        return found
    found.append(Candidate(UNIFORM, uniform))
    for name, least in _floors(uniform):
        floored = within_bounds(layers, table, budgets, least=least)
        if floored is not None:
            found.append(Candidate(name, floored.scheme, floored.gap))
    return found


def of_scheme(
    layers: Sequence[LayerSpec],
    scheme: Scheme,
    name: str,
    losses: LossTable,
    budgets: Sequence[Budget],
) -> list[Candidate]:
    """Lists the scheme of any method, uniform, and the scheme raised to each floor.

    What a floor costs more is saved at the other layers, where the least is lost.

    Args:
        layers: as `find_layers` gives them.
        scheme: within the budgets.
        name: of the method.
        losses: what each layer's n costs, such as `magnitude_table`.
        budgets: of these layers.
    """
    found = [Candidate(name, scheme)]
    uniform = _uniform(layers, budgets)
    if uniform is None:
        return found
    found.append(Candidate(UNIFORM, uniform))
    for floor, least in _floors(uniform):
        most = {layer: max(nm.n, least[layer]) for layer, nm in scheme.items()}
        floored = within_bounds(layers, losses, budgets, least=least, most=most)
        if floored is not None:
            n = {layer: nm.n for layer, nm in floored.scheme.items()}
            whole = within_bounds(layers, losses, budgets, least=n) or floored
            found.append(Candidate(f"{name}, {floor}", whole.scheme))
    return found


def described(trials: Sequence[Trial], method: str) -> list[str]:
    """Says which scheme is taken, the first, and in a line each what they lose."""
    lines = [f"{method}: {trials[0].name} is taken; the loss of each, true and expected:"]
    for trial in trials:
        gap = f" (stopped within {trial.gap:.2%} of optimal)" if trial.gap else ""
        expected = "-" if trial.predicted is None else f"{trial.predicted:.4f}"
        lines.append(f"  {trial.true:.4f}  {expected}  {trial.name}{gap}")
    return lines


def _uniform(layers: Sequence[LayerSpec], budgets: Sequence[Budget]) -> Scheme | None:
    try:
        return uniform_scheme(layers, budgets[0], beside=budgets[1:])
    except InputError:  # within reach of mixed schemes only
        return None


def _floors(uniform: Scheme) -> list[tuple[str, dict[str, int]]]:
    return [
        (name, {layer: floor(nm.n) for layer, nm in uniform.items()})
        for name, floor in FLOORS.items()
    ]

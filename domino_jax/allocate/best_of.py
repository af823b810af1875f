"""Never worse than uniform: schemes compared by the true loss of the network that they make.

A table adds up what layers cost one by one. What they cost together is measured, on batches that
the table was not made from, for uniform and for the best scheme by the table with no floor and with
floors on n of 1/2 and 3/4 of uniform's n and of one less than it. The best one is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from domino_jax.allocate.dense import dense_scheme
from domino_jax.allocate.exact import exact_scheme, within_bounds
from domino_jax.allocate.loss_table import LossTable, predicted
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
}


class Trial(NamedTuple):
    """A scheme that was compared.

    Attributes:
        name: which floors it has.
        scheme: of the grouped layers.
        predicted: the loss that the table expects: that of the dense network and the rises.
        true: mean loss over the batches kept apart.
        gap: share of the rise that the solver could have saved at most; 0: it found the least.
    """

    name: str
    scheme: Scheme
    predicted: float
    true: float
    gap: float = 0.0


def try_all(
    layers: Sequence[LayerSpec],
    table: LossTable,
    budget: Budget,
    true_loss: Callable[[Scheme], float],
) -> list[Trial]:
    """Measures uniform and the table's schemes, each once; the best first.

    Args:
        layers: as `find_layers` gives them.
        table: the loss of every layer and candidate.
        budget: of these layers.
        true_loss: scheme -> mean loss.

    Raises:
        InputError: the budget is out of reach.
    """
    trials: list[Trial] = []
    dense = true_loss(dense_scheme(layers))
    for name, scheme, gap in _schemes(layers, table, budget):
        if all(scheme != trial.scheme for trial in trials):
            expected = dense + predicted(table, scheme)
            trials.append(Trial(name, scheme, expected, true_loss(scheme), gap))
    return sorted(trials, key=lambda trial: trial.true)


def described(trials: Sequence[Trial], method: str) -> list[str]:
    """Says which scheme is taken, the first, and in a line each what they lose."""
    lines = [f"{method}: {trials[0].name} is taken; the loss of each, true and expected:"]
    for trial in trials:
        gap = f" (stopped within {trial.gap:.2%} of optimal)" if trial.gap else ""
        lines.append(f"  {trial.true:.4f}  {trial.predicted:.4f}  {trial.name}{gap}")
    return lines


def _schemes(
    layers: Sequence[LayerSpec], table: LossTable, budget: Budget
) -> list[tuple[str, Scheme, float]]:
    best = exact_scheme(layers, table, [budget])
    schemes = [("no floor", best.scheme, best.gap)]
    try:
        uniform = uniform_scheme(layers, budget)
    except InputError:  # within reach of mixed schemes only
        return schemes
    schemes.append((UNIFORM, uniform, 0.0))
    for name, floor in FLOORS.items():
        least = {layer: floor(nm.n) for layer, nm in uniform.items()}
        found = within_bounds(layers, table, [budget], least=least)
        if found is not None:
            schemes.append((name, found.scheme, found.gap))
    return schemes

"""Exchanges between layers, taken where the true loss of the network falls.

A table knows what each layer costs by itself. What two layers cost together only the network says:
one layer goes down, another up by one candidate, and what is left of the budgets is spent. The
exchange that the table expects to cost least is tried first; one that helps is kept, and the next
ones start from there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from domino_jax.allocate.exact import filled
from domino_jax.allocate.loss_table import LossTable, without_noise
from domino_jax.core.costs import Budget, Number, total_cost
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.scheme import Scheme


class Refined(NamedTuple):
    """What exchanges made of a scheme.

    Attributes:
        scheme: within the budgets.
        before: loss of the scheme that it started from.
        after: its loss.
        tried: exchanges that were measured.
        taken: those that helped.
    """

    scheme: Scheme
    before: float
    after: float
    tried: int
    taken: int


def refined(
    layers: Iterable[LayerSpec],
    scheme: Scheme,
    table: LossTable,
    budgets: Sequence[Budget],
    true_loss: Callable[[Scheme], float],
    *,
    tries: int,
    report: Callable[[int, float], None] = lambda tried, loss: None,
) -> Refined:
    """Tries exchanges, and keeps those with which the loss falls.

    Args:
        layers: as `find_layers` gives them.
        scheme: where to start, within the budgets.
        table: the loss of every layer and candidate; it says which exchange comes first.
        budgets: of these layers.
        true_loss: scheme -> mean loss; the same at every call.
        tries: exchanges to measure at most.
        report: called with the number tried and the least loss after each.
    """
    layers = tuple(layers)
    losses = {name: without_noise(row) for name, row in table.items()}
    before = after = true_loss(scheme)
    seen, taken = [scheme], 0
    while len(seen) <= tries:
        # One that helped changes what the others start from: they are listed anew.
        for other in exchanges(layers, scheme, losses, budgets):
            if other in seen:
                continue
            seen.append(other)
            loss = true_loss(other)
            better = loss < after
            if better:
                scheme, after, taken = other, loss, taken + 1
            report(len(seen) - 1, after)
            if better or len(seen) > tries:
                break
        else:
            break
    return Refined(scheme, before, after, len(seen) - 1, taken)


def exchanges(
    layers: Sequence[LayerSpec], scheme: Scheme, losses: LossTable, budgets: Sequence[Budget]
) -> Iterator[Scheme]:
    """Yields the schemes that differ by an exchange, the least expected rise of the loss first.

    Args:
        layers: as `find_layers` gives them.
        scheme: within the budgets.
        losses: layer name -> {n: loss}, falling.
        budgets: of these layers.
    """
    movable = grouped(layers)
    left = [budget.allowed - total_cost(layers, budget.cost, scheme) for budget in budgets]
    found: list[tuple[float, int, str, int, str, int]] = []
    for up in movable:
        n = scheme[up.name].n
        higher = next((c for c in up.candidates if c > n), None)
        if higher is None:
            continue
        missing = [
            price - rest for price, rest in zip(_prices(up, n, higher, budgets), left, strict=True)
        ]
        for down in movable:
            lower = None if down is up else _lower(down, scheme[down.name].n, missing, budgets)
            if lower is not None:
                rise = losses[down.name][lower] - losses[down.name][scheme[down.name].n]
                rise -= losses[up.name][n] - losses[up.name][higher]
                found.append((rise, len(found), down.name, lower, up.name, higher))
    for _, _, down_name, lower, up_name, higher in sorted(found):
        n_after = {name: nm.n for name, nm in scheme.items()} | {down_name: lower, up_name: higher}
        choices = {
            x.name: [c for c in x.candidates if x.name != down_name or c <= lower] for x in movable
        }
        yield filled(tuple(layers), choices, losses, budgets, n_after)


def _lower(
    layer: LayerSpec, n: int, missing: Sequence[Number], budgets: Sequence[Budget]
) -> int | None:
    """Returns the largest lower candidate that frees what is missing of every budget."""
    for lower in reversed([c for c in layer.candidates if c < n]):
        freed = _prices(layer, lower, n, budgets)
        if all(price >= need for price, need in zip(freed, missing, strict=True)):
            return lower
    return None


def _prices(layer: LayerSpec, low: int, high: int, budgets: Sequence[Budget]) -> list[Number]:
    return [budget.cost(layer, high) - budget.cost(layer, low) for budget in budgets]

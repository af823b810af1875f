"""Exchanges between layers: taken where the true loss falls, never above a budget."""

import made

from domino_jax.allocate.exact import exact_scheme
from domino_jax.allocate.refine import exchanges, refined
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, count_macs, total_cost
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))
ALL = tuple(range(1, 9))
SIZES = {"a": 8, "b": 4, "c": 16, "d": 8}
LAYERS = tuple(
    made.layer(name, (16, size), IO, 16 * size * (1 + i), ALL)
    for i, (name, size) in enumerate(SIZES.items())
)
TABLE = {
    name: {n: scale * (8 - n) ** 2 for n in ALL}
    for name, scale in zip("abcd", (1.0, 0.1, 1.5, 0.9), strict=True)
}
BUDGETS = [budget_of(LAYERS, 0.45), budget_of(LAYERS, 0.5, count_macs)]
START = exact_scheme(LAYERS, TABLE, BUDGETS).scheme


def true_loss(scheme):
    """Sees what no table does: b and d must be alike."""
    return (
        1.0
        + abs(scheme["b"].n - scheme["d"].n)
        + 1e-3 * sum(TABLE[name][nm.n] for name, nm in scheme.items())
    )


def within(scheme):
    return all(total_cost(LAYERS, b.cost, scheme) <= b.allowed for b in BUDGETS)


def rise(scheme):
    return sum(TABLE[name][nm.n] for name, nm in scheme.items())


def test_an_exchange_takes_from_one_layer_and_spends_what_it_frees():
    found = list(exchanges(LAYERS, START, TABLE, BUDGETS))
    assert found
    for scheme in found:
        assert within(scheme)
        lower = [name for name, nm in scheme.items() if nm.n < START[name].n]
        higher = [name for name, nm in scheme.items() if nm.n > START[name].n]
        assert len(lower) == 1
        assert higher
        for layer in LAYERS:
            n = scheme[layer.name].n
            if layer.name not in lower and n < 8:
                assert not within({**scheme, layer.name: NM(n + 1, 8)})
    assert rise(found[0]) <= min(map(rise, found)) + 1e-9


def test_what_helps_is_kept_and_the_next_ones_start_there():
    seen = []
    result = refined(
        LAYERS,
        START,
        TABLE,
        BUDGETS,
        true_loss,
        tries=30,
        report=lambda tried, loss: seen.append((tried, loss)),
    )
    assert within(result.scheme)
    assert result.before == true_loss(START)
    assert result.after == true_loss(result.scheme) < result.before
    assert result.taken >= 1
    assert [tried for tried, _ in seen] == list(range(1, result.tried + 1))
    losses = [loss for _, loss in seen]
    assert losses == sorted(losses, reverse=True)
    again = refined(LAYERS, START, TABLE, BUDGETS, true_loss, tries=30)
    assert again == result


def test_no_more_than_asked_for_and_none_twice():
    measured = []

    def loss(scheme):
        measured.append(str(scheme))
        return 1.0

    result = refined(LAYERS, START, TABLE, BUDGETS, loss, tries=3)
    assert (result.tried, result.taken, result.scheme) == (3, 0, START)
    assert len(set(measured)) == len(measured) == 4  # with the start
    measured.clear()
    result = refined(LAYERS, START, TABLE, BUDGETS, loss, tries=1000)
    assert len(set(measured)) == len(measured) == result.tried + 1 < 1000

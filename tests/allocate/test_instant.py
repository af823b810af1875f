"""The search without data against the search itself with gradients of zero, step by step."""

import itertools

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest

from domino_jax.allocate import instant
from domino_jax.allocate.domino import domino
from domino_jax.allocate.paces import pace_rule
from domino_jax.allocate.penalty_only import Decays, after
from domino_jax.allocate.problem import Problem, Weights
from domino_jax.allocate.search import by_layer
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import budget_of, count_macs, count_weights, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.masked import make_masks
from domino_jax.core.scheme import NM
from domino_jax.train.optim import doubling
from domino_jax.train.transforms import survivor_decay, survivors

IO = Axes((), (), (0,), (1,))
HWIO = Axes((), (0, 1), (2,), (3,))
STACK = Axes((0,), (), (1,), (2,))
ALL, TWOS = tuple(range(1, 9)), (1, 2, 4, 8)
PLAN = instant.Plan(
    lr=0.1,
    penalty=0.2,
    penalty_every=2,
    penalty_doubles_at=(),
    vote_every=10,
    max_steps=700,
    patience=200,
)


def network(candidates=ALL):
    """Layers of several forms: a window, a short last group, slices of a stack, a dense one."""
    return (
        made.layer("conv", (3, 3, 8, 4), HWIO, 40_000, candidates),
        made.layer("wide", (12, 24), IO, 288, candidates),
        made.layer("stack#0", (16, 6), STACK, 500, candidates),
        made.layer("stack#1", (16, 6), STACK, 500, reason="by rule"),
        made.layer("stack#2", (16, 6), STACK, 9_000, candidates),
        made.layer("head", (16, 5), IO, 80, candidates),
    )


def weights(seed=0):
    rng = np.random.default_rng(seed)
    made_weights = {
        "conv": rng.normal(size=(3, 3, 8, 4)),
        "wide": rng.laplace(size=(12, 24)),
        "stack": rng.normal(size=(3, 16, 6)),
        "head": np.round(rng.normal(size=(16, 5)), 1),  # ties, and zeros
    }
    return {name: jnp.asarray(w) for name, w in made_weights.items()}


def stepwise(layers, search, params, plan, votes):
    """Takes the votes of the search, and between them the steps of a real one without gradients."""
    penalty = doubling(plan.penalty, *plan.penalty_doubles_at) if plan.penalty_doubles_at else None
    tx = optax.chain(
        survivors(),
        survivor_decay(layers, penalty or plan.penalty, plan.penalty_every),
        optax.sgd(plan.lr),
    )
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(params, state, n, pace):
        masks = make_masks(params, layers, n)
        updates, state = tx.update(zeros, state, params, masks=masks, pace=pace)
        return optax.apply_updates(params, updates), state

    state, now = tx.init(params), search.init(params)
    for number in range(votes * plan.vote_every):
        later = search.update(now, params) if number % plan.vote_every == 0 else now
        if number % plan.vote_every == 0:
            yield by_layer(layers, later.n), by_layer(layers, later.committed)
            if later.done:
                return
        params, state = step(params, state, now.n, now.pace)
        now = later


def rules(layers, budget, name="domino", **weights):
    return {"vote_ratio": 0.75, "pace": pace_rule(name, layers, budget, **weights)}


def require_same_votes(layers, params, plan, budget, options):
    """Compares n and committed after every vote; returns the votes and all paces."""
    ours, paces = [], []
    for vote in instant.votes(layers, budget, params, plan, **options):
        ours.append((vote.n, vote.committed))
        paces += vote.pace.values()
        if vote.step + plan.vote_every >= plan.max_steps:
            break
    theirs = list(stepwise(layers, domino(layers, budget, **options), params, plan, len(ours)))
    assert ours == theirs
    return ours, paces


@pytest.mark.parametrize(
    ("share", "cost"),
    [(0.25, count_weights), (0.4, count_macs), (0.6, count_weights), (0.6, count_macs)],
)
def test_every_vote_is_that_of_the_search_without_gradients(share, cost):
    with jax.enable_x64(True):
        layers, params = network(), weights()
        budget = budget_of(layers, share, cost)
        ours, paces = require_same_votes(layers, params, PLAN, budget, rules(layers, budget))
        assert len(ours) > 5
        assert min(paces) < 0 or cost is count_macs  # layers grow, too


@pytest.mark.parametrize(
    ("plan", "options", "candidates"),
    [
        # Decays that are no divisor of the votes, and a penalty that doubles between two of them.
        (PLAN._replace(penalty_every=3, penalty=0.1, penalty_doubles_at=(24, 17)), {}, TWOS),
        (PLAN._replace(vote_every=7, penalty_every=7), {"name": "constant"}, ALL),
        # A layer sinks, grows for long, and sinks again.
        (PLAN._replace(penalty=0.5), {"erk_weight": 1.0, "macs_weight": 0.05}, ALL),
        # Some decays are so strong that signs change, and then grow.
        (PLAN._replace(penalty=12.0, penalty_every=10, vote_every=10), {"erk_weight": 1.5}, TWOS),
    ],
)
def test_whatever_the_plan(plan, options, candidates):
    with jax.enable_x64(True):
        layers, params = network(candidates), weights(5)
        budget = budget_of(layers, 0.35)
        require_same_votes(layers, params, plan, budget, rules(layers, budget, **options))


def by_turns(down, up):
    """Makes a rule under which all layers sink for some votes, and then grow for as many."""
    asked = itertools.count()
    return lambda committed: dict.fromkeys(committed, up if next(asked) // 5 % 2 else down)


@pytest.mark.parametrize(("down", "up"), [(1.0, -0.9), (0.5, -0.4)])
def test_weights_below_their_threshold_come_back(down, up):
    with jax.enable_x64(True):
        layers = (made.layer("wide", (32, 64), IO, 2048, ALL),)
        params = {"wide": jnp.asarray(np.random.default_rng(1).normal(size=(32, 64)))}
        budget = budget_of(layers, 0.3)
        ours = instant.votes(layers, budget, params, PLAN, vote_ratio=0.75, pace=by_turns(down, up))
        found = [(vote.n, vote.committed) for vote in itertools.islice(ours, 60)]
        search = domino(layers, budget, vote_ratio=0.75, pace=by_turns(down, up))
        assert found == list(stepwise(layers, search, params, PLAN, len(found)))
        assert found[-1][0]["wide"] < 6


def problem(share=0.6, said=None, **options):
    layers = network()
    settings = {**PLAN._asdict(), "max_steps": 5000, "vote_ratio": 0.75, **options}
    return Problem(
        layers,
        budget_of(layers, share),
        settings,
        weights=lambda: Weights(jax.tree.map(lambda w: w.astype(jnp.float32), weights()), {}),
        say=(said if said is not None else []).append,
    )


def test_the_scheme_ends_with_the_exact_finish():
    said = []
    asked = problem(said=said)
    scheme = instant.allocate(asked)
    spent = total_cost(asked.layers, count_weights, scheme)
    assert spent <= asked.budget.allowed
    for layer in asked.layers:
        if layer.groups and scheme[layer.name].n < 8:
            more = {**scheme, layer.name: NM(scheme[layer.name].n + 1, 8)}
            assert total_cost(asked.layers, count_weights, more) > asked.budget.allowed
    assert said[0].startswith("instant: ")
    assert "steps without data to 0.5" in said[0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"penalty": 0.0, "patience": 3}, "no n changed for 3 votes"),
        ({"max_steps": 30}, "the budget was not reached in 30 steps"),
        ({"pace": "own_parts:growing"}, "no layer that can still move decays"),
    ],
)
def test_a_search_that_stands_still_says_why(options, why):
    with pytest.raises(InputError, match=f"^instant: .*{why}.*; cost 0.* of dense, budget 0.6"):
        instant.allocate(problem(**options))


def test_a_search_that_stands_still_near_its_budget_is_finished():
    said = []
    near = problem(0.79, said, penalty=0.0, patience=3)
    scheme = instant.allocate(near)
    assert total_cost(near.layers, count_weights, scheme) <= near.budget.allowed
    assert "instant: stood still near its budget: no n changed for 3 votes" in said[0]


def test_a_budget_out_of_reach_is_refused_before_the_weights_are_asked_for():
    asked = problem(0.1)._replace(weights=lambda: pytest.fail("trained"))
    with pytest.raises(InputError, match="is out of reach"):
        instant.allocate(asked)


def test_a_layer_that_grows_for_the_first_time_is_made_anew():
    """Those below their threshold were not kept in order; once weights grow they matter again."""
    start = -np.sort(-np.random.default_rng(0).normal(size=(8, 40)), axis=0)
    sunk, grown = Decays(4, 0.5, 6), Decays(3, -0.4, 5)
    groups = instant._groups(start, 4, 20)
    for decays in (sunk, grown):
        groups = instant._delayed(groups, [decays])
        groups = instant._caught_up(groups, 3, 20, lambda: start)
    right = after(after(start, sunk, below=True), grown, below=True)
    np.testing.assert_allclose(np.sort(groups.logs, axis=0), np.sort(right, axis=0))
    wrong = after(after(start, sunk, below=False), grown, below=True)
    assert np.abs(np.sort(wrong, axis=0) - np.sort(right, axis=0)).max() > 0.1

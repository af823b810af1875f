"""The search of `domino` without data: exactly what its penalty alone would do, vote by vote.

Assumed is what `run.steps.search_parts` trains with, the gradient of the loss set to zero: SGD
without momentum at a constant rate. A decay multiplies the survivors of a layer, the n largest of
each group, by 1 - lr · penalty · pace; the penalty doubles at its steps, the pace changes with the
votes. The step of a vote still decays at the n and the pace of before. Decays are kept until a vote
may turn on them: no layer can agree before the n-th largest of enough groups can have sunk to their
thresholds, so a layer is looked at again only near its next change.

It differs from the search with data where the loss pulls weights up as fast as the penalty pushes
them down: at a small penalty, or a large learning rate.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from domino_jax.allocate.domino import domino, require_finite_paces, rules_of, take_vote
from domino_jax.allocate.finish import finished, magnitude_table
from domino_jax.allocate.paces import PaceRule
from domino_jax.allocate.penalty_only import Decays, after, amount_of, log_ratios
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.search import as_scheme, by_layer
from domino_jax.allocate.stall import why_standing
from domino_jax.core import masks
from domino_jax.core.canonical import one_slice
from domino_jax.core.costs import Budget, as_fraction, kept_share
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernel_weights, kernels
from domino_jax.core.layers import LayerSpec, group_count, grouped
from domino_jax.core.scheme import Scheme

_ROUNDING = 1e-9  # of logarithms; what is so near a threshold is looked at


class Plan(NamedTuple):
    """When the search decays and votes, and by how much: the settings of the same names."""

    lr: float
    penalty: float
    penalty_every: int
    penalty_doubles_at: tuple[int, ...]
    vote_every: int
    max_steps: int
    patience: int


class Vote(NamedTuple):
    """The outcome of a vote.

    Attributes:
        step: at which it is taken.
        n: of each grouped layer, afterwards.
        committed: the last candidate that each has reached.
        pace: of each, from the next step on.
        still: votes since an n changed last.
        done: the committed n meet the budget.
    """

    step: int
    n: Mapping[str, int]
    committed: Mapping[str, int]
    pace: Mapping[str, float]
    still: int
    done: bool


class _Groups(NamedTuple):
    """The groups of a layer, some decays behind.

    Attributes:
        logs: of |w| / threshold, falling: [M, G].
        past: the decays that are in them.
        below: whether those at most at their thresholds are right, too; see `after`.
        waiting: decays since.
        depth: how far those can have sunk a weight.
        soonest: how far the n-th largest must sink until enough groups agree.
    """

    logs: np.ndarray
    past: tuple[Decays, ...]
    below: bool
    waiting: tuple[Decays, ...]
    depth: float
    soonest: float


def votes(
    layers: Iterable[LayerSpec],
    budget: Budget,
    params: Any,
    plan: Plan,
    *,
    vote_ratio: float,
    pace: PaceRule,
) -> Iterator[Vote]:
    """Yields the votes of a search without gradients, until its budget is met.

    Args:
        layers: as `find_layers` gives them.
        budget: of these layers.
        params: of the dense network.
        plan: its decays; steps end when the caller stops.
        vote_ratio: share of a layer's groups that must agree to n - 1.
        pace: committed n -> penalty factor of each layer.

    Raises:
        InputError: as `domino`.
    """
    layers = tuple(layers)
    first = domino(layers, budget, vote_ratio=vote_ratio, pace=pace).init(params)
    n, committed = by_layer(layers, first.n), by_layer(layers, first.committed)
    factors: Mapping[str, float] = by_layer(layers, first.pace)
    if first.done:
        yield Vote(0, n, committed, factors, 0, True)
        return
    ratio = as_fraction(vote_ratio)
    needed = {layer.name: math.ceil(ratio * group_count(layer)) for layer in grouped(layers)}
    start = _starting(layers, params, first.threshold)
    groups = {name: _groups(start(name), n[name], needed[name]) for name in n}
    still = 0

    def agrees(layer: LayerSpec) -> bool:
        name = layer.name
        if groups[name].depth < groups[name].soonest - _ROUNDING:
            return False
        groups[name] = _caught_up(groups[name], n[name], needed[name], partial(start, name))
        return groups[name].soonest <= 0

    for step in itertools.count(0, plan.vote_every):
        before = n
        n, committed, done = take_vote(layers, budget, before, committed, agrees)
        still = 0 if n != before else still + 1
        later = pace(committed)
        require_finite_paces(layers, later)
        yield Vote(step, n, committed, later, still, done)
        if done:
            return
        of_vote = _penalties(plan, step, step + 1)
        others = _penalties(plan, step + 1, step + plan.vote_every)
        for layer in grouped(layers):
            name = layer.name
            if n[name] == layer.candidates[0]:
                groups.pop(name, None)  # its votes are over
                continue
            old = [_decays(plan, before[name], factors[name], *each) for each in of_vote]
            new = [_decays(plan, n[name], later[name], *each) for each in others]
            groups[name] = _delayed(groups[name], [*old, *new])
            if n[name] != before[name]:
                soonest = _soonest(groups[name].logs, n[name], needed[name])
                groups[name] = groups[name]._replace(soonest=soonest)
        factors = later


def allocate(problem: Problem) -> Scheme:
    """Is the entry 'instant' of `ALLOCATORS`; it ends with the exact finish of a search.

    Raises:
        InputError: the budget is out of reach, or the search stands still far above it.
    """
    layers, budget = problem.layers, problem.budget
    plan, rules = Plan(*(problem.options[name] for name in Plan._fields)), rules_of(problem)
    domino(layers, budget, **rules)  # refuses what is wrong before the dense network is trained
    params, _ = problem.weights()
    vote, reason = _last_vote(layers, votes(layers, budget, params, plan, **rules), plan)
    scheme = as_scheme(layers, vote.committed)
    answer = finished(layers, scheme, problem.budgets, magnitude_table(layers, params))
    share = kept_share(layers, budget.cost, scheme)
    if answer is None:
        raise InputError(
            f"instant: {reason}; cost {share:.4f} of dense, budget {budget.share:g}; expected "
            "settings of the search that get there (search.penalty, search.max_steps)"
        )
    ended = reason and f"stood still near its budget: {reason}; "
    problem.say(
        f"instant: {ended}{vote.step} steps without data to {share:.4f} of dense, finished at "
        f"{kept_share(layers, budget.cost, answer):.4f}"
    )
    return answer


def _last_vote(
    layers: tuple[LayerSpec, ...], votes: Iterator[Vote], plan: Plan
) -> tuple[Vote, str]:
    """Returns the last vote, and why it is the last: '' where the budget is met."""
    while True:  # votes end no sooner
        vote = next(votes)
        reason = why_standing(layers, vote.n, vote.pace, vote.still, plan.patience)
        if vote.done:
            return vote, ""
        if vote.step + plan.vote_every >= plan.max_steps:
            reason = reason or f"the budget was not reached in {plan.max_steps} steps"
        if reason:
            return vote, reason


def _starting(
    layers: tuple[LayerSpec, ...], params: Any, threshold: Mapping[str, jax.Array]
) -> Callable[[str], np.ndarray]:
    """Makes layer name -> logarithms of its dense weights, as `log_ratios`."""
    weights, by_path = kernel_weights(params, layers), kernels(layers)
    by_name = {layer.name: layer for layer in grouped(layers)}

    def start(name: str) -> np.ndarray:
        layer = by_name[name]
        kernel, index = by_path[layer.path], layer.index or 0
        own = one_slice(weights[layer.path], index, kernel.axes)
        (magnitudes,) = np.asarray(_magnitudes(own, layer.m, kernel.axes))
        of_slice = np.asarray(threshold[layer.path]).reshape(len(kernel.slices), -1)[index]
        return log_ratios(magnitudes, of_slice)

    return start


_magnitudes = jax.jit(masks.magnitudes, static_argnums=(1, 2))


def _groups(
    logs: np.ndarray, n: int, needed: int, past: tuple[Decays, ...] = (), *, below: bool = False
) -> _Groups:
    return _Groups(logs, past, below, (), 0.0, _soonest(logs, n, needed))


def _soonest(logs: np.ndarray, n: int, needed: int) -> float:
    """Returns the depth at which the n-th largest of `needed` groups can be at their thresholds."""
    return float(np.partition(logs[n - 1], needed - 1)[needed - 1])


def _caught_up(groups: _Groups, n: int, needed: int, start: Callable[[], np.ndarray]) -> _Groups:
    """Makes the decays that wait; where the layer grows for the first time, all anew."""
    past, logs, waiting = (*groups.past, *groups.waiting), groups.logs, groups.waiting
    below = groups.below or any(decays.amount < 0 for decays in waiting)
    if below and not groups.below:
        logs, waiting = start(), past
    for decays in waiting:
        logs = after(logs, decays, below=below)
    return _groups(logs, n, needed, past, below=below)


def _delayed(groups: _Groups, decays: Iterable[Decays]) -> _Groups:
    """Adds decays to those that wait; equal ones become one."""
    waiting, depth = list(groups.waiting), groups.depth
    for each in decays:
        depth += max(each.amount, 0.0) * each.times
        if waiting and waiting[-1][:2] == each[:2]:
            waiting[-1] = each._replace(times=waiting[-1].times + each.times)
        else:
            waiting.append(each)
    return groups._replace(waiting=tuple(waiting), depth=depth)


def _decays(plan: Plan, n: int, pace: float, penalty: float, times: int) -> Decays:
    return Decays(n, amount_of(plan.lr * penalty * pace), times)


def _penalties(plan: Plan, first: int, last: int) -> list[tuple[float, int]]:
    """Lists the penalties of the decays in steps first .. last - 1, each with its times."""
    steps = range(-(-first // plan.penalty_every) * plan.penalty_every, last, plan.penalty_every)
    runs = itertools.groupby(_penalty(plan, step) for step in steps)
    return [(penalty, len(list(run))) for penalty, run in runs]


def _penalty(plan: Plan, step: int) -> float:
    """Returns the penalty of a step, as `train.optim.doubling` has it."""
    if not plan.penalty_doubles_at:
        return plan.penalty
    first, every = plan.penalty_doubles_at
    return math.ldexp(plan.penalty, max((step - first) // every + 1, 0))

"""The loops that search and train.

Everything here works on plain functions and pytrees; what a run logs, saves and obeys comes in as
`Hooks`. Batches are {'inputs', 'labels'}; the random key of step i is fold_in(key, i).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.allocate.search import Search, SearchState
from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path
from domino_jax.train.losses import Batch
from domino_jax.train.step import Step, TrainState

State = TypeVar("State")


class SearchRun(NamedTuple):
    """A training state and the search that steers it; a pytree."""

    train: TrainState
    search: SearchState


class Stopped(Exception):  # noqa: N818 (no error: the run was asked to stop, and saved)
    """The run was asked to stop; its state is saved."""


class Diverged(FloatingPointError):  # noqa: N818 (reads as a sentence)
    """The loss or a number of the state became NaN or infinite; that state is not saved."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step = step


class Stuck(InputError):  # noqa: N818 (reads as a sentence: raise Stuck(reason))
    """A search will not reach its budget; its state before the last vote is saved."""


@dataclass(frozen=True)
class Hooks:
    """What a loop does besides training.

    Attributes:
        log: called with (step, mean loss since the last call, state) every `log_every` steps, and
            with the last mean again where the last vote changed the state without a step.
        save: called with (step, state) every `checkpoint_every` steps and when stopping.
        should_stop: asked before every step.
        log_every: in steps.
        checkpoint_every: in steps.
    """

    log: Callable[[int, float, Any], None] = lambda step, loss, state: None
    save: Callable[[int, Any], None] = lambda step, state: None
    should_stop: Callable[[], bool] = lambda: False
    log_every: int = 50
    checkpoint_every: int = 1000


def run_train(
    step: Step,
    state: TrainState,
    target: Any,
    batches: Iterator[Batch],
    key: jax.Array,
    *,
    steps: int,
    hooks: Hooks,
) -> TrainState:
    """Trains from state.step up to `steps`; `target` is the second argument of the step.

    Raises:
        Diverged: the loss or a number of the state became NaN or infinite; it was not saved.
        Stopped: the hooks asked for it; the state was saved.
    """

    def advance(i: int, state: TrainState) -> tuple[TrainState, jax.Array, bool]:
        state, loss = step(state, target, next(batches), key)
        return state, loss, i + 1 == steps

    return _run(advance, state, int(state.step), steps, hooks=hooks)


def run_search(
    step: Step,
    search: Search,
    run: SearchRun,
    batches: Iterator[Batch],
    key: jax.Array,
    *,
    vote_every: int,
    max_steps: int,
    stuck: Callable[[SearchRun], str],
    hooks: Hooks,
) -> SearchRun:
    """Trains and votes until the committed N:M meet the budget.

    The vote of step i sees the weights before the step, and the step still uses the masks and
    paces from before the vote; after the vote that meets the budget no step follows. Both are the
    published order.

    Args:
        step: as `search_step` makes it.
        search: as `domino` makes it.
        run: where to start.
        batches: from step `run.train.step` on.
        key: random key of the run.
        vote_every: steps from vote to vote; the first step votes.
        max_steps: the search gives up there.
        stuck: after each vote, why the search will not get further ('' if it may).
        hooks: what to log, save and obey.

    Raises:
        Stuck: the search stands still or ran out of steps; the state was saved.
        Diverged: the loss or a number of the state became NaN or infinite; it was not saved.
        Stopped: the hooks asked for it; the state was saved.
    """

    def advance(i: int, run: SearchRun) -> tuple[SearchRun, jax.Array | None, bool]:
        voted = run.search
        if i % vote_every == 0:
            voted = search.update(run.search, run.train.params)
            if voted.done:
                return SearchRun(run.train, voted), None, True
            reason = stuck(SearchRun(run.train, voted))
            if reason:
                raise Stuck(reason)
        target = {"n": run.search.n, "pace": run.search.pace}
        train, loss = step(run.train, target, next(batches), key)
        return SearchRun(train, voted), loss, False

    if run.search.done:
        return run
    run = _run(advance, run, int(run.train.step), max_steps, hooks=hooks)
    if not run.search.done:
        raise Stuck(f"the budget was not reached in {max_steps} steps (search.max_steps)")
    return run


def _run(
    advance: Callable[[int, State], tuple[State, jax.Array | None, bool]],
    state: State,
    first: int,
    last: int,
    *,
    hooks: Hooks,
) -> State:
    losses: list[jax.Array] = []
    mean = None  # of the losses that were logged last

    def save(i: int) -> None:
        _require_finite(losses, i)
        _require_finite_state(state, i)
        hooks.save(i, state)

    i = first
    finished = i >= last
    while not finished:
        stop = hooks.should_stop()
        if stop or (i > first and i % hooks.checkpoint_every == 0):
            save(i)
        if stop:
            raise Stopped(f"stopped at step {i}")
        try:
            state, loss, finished = advance(i, state)
        except Stuck:
            save(i)
            raise
        if loss is not None:
            losses.append(loss)
            i += 1
        finished = finished or i == last
        if losses and (i % hooks.log_every == 0 or finished):
            mean = _require_finite(losses, i)
            hooks.log(i, mean, state)
            losses = []
        elif finished and mean is not None:  # the last vote came after the last log
            hooks.log(i, mean, state)
        if finished:
            save(i)
    return state


def _require_finite(losses: list[jax.Array], step: int) -> float:
    """Returns the mean of the losses that end before `step`."""
    values = [float(loss) for loss in jax.device_get(losses)]
    for back, value in enumerate(values):
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value}", step - len(values) + back)
    return sum(values) / max(len(values), 1)


@jax.jit
def _finite_leaves(leaves: list[jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool)


def _require_finite_state(state: Any, step: int) -> None:
    """Refuses weights, statistics and optimizer states that are spoiled while the loss is not.

    A NaN may never reach the loss: XLA's max(NaN, 0) is 0 on CPUs where a ReLU is fused.
    """
    leaves = {path: leaf for path, leaf in leaves_by_path(state).items() if _is_inexact(leaf)}
    finite = np.asarray(_finite_leaves([*leaves.values()]))
    for path, is_finite in zip(leaves, finite, strict=True):
        if not is_finite:
            raise Diverged(f"{path} became NaN or infinite", step - 1)


def _is_inexact(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(jnp.result_type(leaf), np.inexact))

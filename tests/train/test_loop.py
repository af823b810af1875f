"""The loops: when they log, save, vote, stop and resume."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax.allocate.domino import domino
from domino_jax.allocate.search import Search, SearchState
from domino_jax.trace.layers import find_layers
from domino_jax.train import loop, losses
from domino_jax.train.step import TrainState, dense_step, init_state, search_step
from domino_jax.train.transforms import survivor_decay, survivors

KEY = jax.random.key(7)


class Recorder:
    """Hooks that write down what they are called with; `stop_at` counts the questions."""

    def __init__(self, log_every=1000, checkpoint_every=1000, stop_at=None):
        self.logs, self.saved, self.saves, self.asked = [], [], {}, 0
        self.log_every, self.checkpoint_every, self.stop_at = log_every, checkpoint_every, stop_at

    def should_stop(self):
        self.asked += 1
        return self.asked - 1 == self.stop_at

    def save(self, step, state):
        self.saved.append(step)
        self.saves[step] = jax.device_get(state)

    def log(self, step, loss, state):
        self.logs.append((step, loss))

    @property
    def hooks(self):
        cadence = self.log_every, self.checkpoint_every
        return loop.Hooks(self.log, self.save, self.should_stop, *cadence)


# For the loops alone: a step whose loss is the batch.
def counting_step(state, control, batch, key):
    return state._replace(step=state.step + 1), jnp.float32(batch)


def run_counting(recorder, batches, steps, start=0):
    state = TrainState(np.int32(start), {}, {}, ())
    return loop.run_train(
        counting_step, state, None, iter(batches), KEY, steps=steps, hooks=recorder.hooks
    )


def test_logs_the_mean_since_the_last_and_saves_at_its_cadence():
    recorder = Recorder(log_every=3, checkpoint_every=4)
    state = run_counting(recorder, range(8), 8)
    assert state.step == 8
    assert recorder.logs == [(3, 1.0), (6, 4.0), (8, 6.5)]
    assert recorder.saved == [4, 8]
    assert [int(recorder.saves[step].step) for step in (4, 8)] == [4, 8]
    assert recorder.asked == 8


def test_a_resumed_run_keeps_the_cadence_and_does_not_save_where_it_starts():
    recorder = Recorder(log_every=3, checkpoint_every=4)
    run_counting(recorder, range(4, 10), 10, start=4)
    assert recorder.logs == [(6, 4.5), (9, 7.0), (10, 9.0)]
    assert recorder.saved == [8, 10]


def test_a_finished_run_makes_no_step():
    recorder = Recorder()
    run_counting(recorder, [], 8, start=8)
    assert recorder.logs == []


def test_stops_and_saves_where_it_is():
    recorder = Recorder(stop_at=3, log_every=2)
    with pytest.raises(loop.Stopped, match="stopped at step 3"):
        run_counting(recorder, range(9), 9)
    assert {step: int(state.step) for step, state in recorder.saves.items()} == {3: 3}
    assert recorder.logs == [(2, 0.5)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{"log_every": 4}, {"checkpoint_every": 4}, {"stop_at": 4}, {}])
def test_a_broken_loss_is_named_and_not_saved(options, bad):
    recorder = Recorder(**options)
    with pytest.raises(FloatingPointError, match=f"the loss became {bad} at step 2"):
        run_counting(recorder, [0.5, 0.5, bad, 0.5, bad, 0.5], 6)
    assert recorder.saves == {}


def test_the_step_of_a_broken_loss_counts_from_the_start():
    recorder = Recorder(log_every=2)
    with pytest.raises(FloatingPointError, match="step 15"):
        run_counting(recorder, [1, 1, 1, 1, 1, np.nan, 1], 99, start=10)
    assert recorder.logs == [(12, 1.0), (14, 1.0)]


def drawn_search(votes_needed, calls):
    """A search that counts its votes in n and is done after some; writes down what it sees."""

    def update(state, params):
        calls.append(("vote", int(params["steps"]), int(state.n["w"])))
        n = {"w": state.n["w"] - 1}
        done = np.asarray(state.count + 1 == votes_needed)
        return state._replace(count=state.count + 1, n=n, done=done)

    return Search(lambda params: None, update)


@pytest.mark.parametrize("part", ["params", "stats", "opt_state"])
def test_a_broken_state_is_named_and_not_saved(part):
    recorder = Recorder(checkpoint_every=2)

    def breaking(state, target, batch, key):
        kernel = jnp.where(state.step == 2, jnp.nan, jnp.ones(3))
        whole, loss = counting_step(state, target, batch, key)
        return whole._replace(**{part: {"conv": {"mean": kernel}}}), loss

    whole = {"conv": {"mean": jnp.ones(3)}}
    state = TrainState(np.int32(0), whole, whole, whole)
    with pytest.raises(FloatingPointError, match=f"^{part}/conv/mean became NaN .* at step 2"):
        loop.run_train(breaking, state, None, iter(range(9)), KEY, steps=3, hooks=recorder.hooks)
    assert recorder.saved == [2]


def run_drawn(votes_needed, recorder, *, max_steps=20, stuck=lambda run: "", loss=1.0):
    """Runs a drawn search with a vote every second step; returns the end and the calls."""
    calls = []

    def step(state, control, batch, key):
        calls.append(("step", int(state.step), int(control["n"]["w"])))
        made = state.step + 1
        return state._replace(step=made, params={"steps": made}), jnp.float32(loss)

    zero = np.int32(0)
    start = SearchState(zero, {"w": np.int32(16)}, {}, {}, {}, np.asarray(False), zero)
    train = TrainState(zero, {"steps": zero}, {}, ())
    run = loop.run_search(
        step,
        drawn_search(votes_needed, calls),
        loop.SearchRun(train, start),
        itertools.repeat(None),
        KEY,
        vote_every=2,
        max_steps=max_steps,
        stuck=stuck,
        hooks=recorder.hooks,
    )
    return run, calls


def test_votes_see_the_weights_before_the_step_and_masks_change_after_it():
    recorder = Recorder(log_every=3)
    run, calls = run_drawn(3, recorder, max_steps=9)
    expected = [("vote", 0, 16), ("step", 0, 16), ("step", 1, 15)]
    expected += [("vote", 2, 15), ("step", 2, 15), ("step", 3, 14), ("vote", 4, 14)]
    assert calls == expected  # and no step after the vote that meets the budget
    assert (int(run.train.step), int(run.search.n["w"])) == (4, 13)
    assert recorder.saved == [4]
    assert recorder.saves[4].search.done
    assert recorder.logs == [(3, 1.0), (4, 1.0)]


def test_the_last_vote_is_logged():
    recorder, seen = Recorder(log_every=2), []
    recorder.log = lambda step, loss, run: seen.append((step, loss, int(run.search.n["w"])))
    run_drawn(3, recorder)
    assert seen == [(2, 1.0, 15), (4, 1.0, 14), (4, 1.0, 13)]


def test_a_saved_search_votes_again_when_it_resumes():
    recorder = Recorder(checkpoint_every=2)
    run_drawn(9, recorder)
    saved = recorder.saves[4]
    assert (int(saved.train.step), int(saved.search.count)) == (4, 2)  # of steps 0 and 2


def test_a_search_that_gets_no_further_is_stuck_and_saved():
    recorder = Recorder()
    with pytest.raises(loop.Stuck, match="no way: 3 votes"):
        run_drawn(9, recorder, stuck=lambda run: "no way: 3 votes" if run.search.count == 3 else "")
    assert recorder.saved == [4]
    # As it was before the vote, so that the same command says the same again.
    assert recorder.saves[4].search.count == 2


def test_a_broken_search_is_not_stuck():
    recorder = Recorder()
    with pytest.raises(FloatingPointError, match="the loss became nan at step 0"):
        run_drawn(9, recorder, loss=np.nan, stuck=lambda run: "w grew to nan" * run.train.step)
    assert recorder.saves == {}


def test_a_search_out_of_steps_is_stuck_and_saved():
    recorder = Recorder()
    with pytest.raises(loop.Stuck, match=r"not reached in 5 steps \(search\.max_steps\)"):
        run_drawn(9, recorder, max_steps=5)
    assert recorder.saved == [5]


def test_a_search_stops_before_its_vote():
    recorder = Recorder(stop_at=2)
    with pytest.raises(loop.Stopped, match="step 2"):
        run_drawn(9, recorder)
    assert recorder.saves[2].search.count == 1


# Two products with noise in between, so that a run depends on every key.
def noisy(params, stats, inputs, *, train, key):
    hidden = inputs @ params["a"]
    if train:
        hidden = hidden + 0.1 * jax.random.normal(key, hidden.shape)
    return hidden @ params["b"], {"sum": stats["sum"] + hidden.sum()}


def batches_from(start):
    for i in itertools.count(start):
        rng = np.random.default_rng(i)
        yield {"inputs": jnp.float32(rng.normal(size=(4, 8))), "labels": jnp.int32([0, 1, 0, 1])}


RNG = np.random.default_rng(0)
PARAMS = {"a": jnp.float32(RNG.normal(size=(8, 4))), "b": jnp.float32(RNG.normal(size=(4, 2)))}
LAYERS = find_layers(lambda p, x: x @ p["a"] @ p["b"], PARAMS, jnp.zeros((1, 8)), 4)
SEARCH = domino(LAYERS, 0.4)
SEARCH_TX = optax.chain(survivors(), survivor_decay(LAYERS, 1.0, 2), optax.sgd(0.1))
TRAIN_TX = optax.sgd(0.1, momentum=0.9)
TRACES = []


def traced(*args, **kwargs):
    TRACES.append(1)
    return noisy(*args, **kwargs)


SEARCH_STEP = search_step(traced, losses.cross_entropy(), SEARCH_TX, LAYERS)
TRAIN_STEP = dense_step(noisy, losses.cross_entropy(), TRAIN_TX)


def fresh(tx):
    return init_state(jax.tree.map(jnp.copy, PARAMS), {"sum": jnp.zeros([])}, tx)


def search_run(recorder, saved=None):
    """Runs a small real search, from the start or from what was saved."""
    start = saved or loop.SearchRun(fresh(SEARCH_TX), SEARCH.init(PARAMS))
    votes = []

    def update(state, params):
        state = SEARCH.update(state, params)
        votes.append([float(v[p]) for v in (state.n, state.pace) for p in "ab"])
        return state

    run = loop.run_search(
        SEARCH_STEP,
        SEARCH._replace(update=update),
        jax.tree.map(jnp.asarray, start),
        batches_from(int(start.train.step)),
        KEY,
        vote_every=3,
        max_steps=200,
        stuck=lambda run: "",
        hooks=recorder.hooks,
    )
    return jax.device_get(run), np.array(votes)


def train_run(recorder, saved=None, **changes):
    state = jax.tree.map(jnp.asarray, saved or fresh(TRAIN_TX))
    options = {"key": KEY, "batches": batches_from(int(state.step))} | changes
    return jax.device_get(
        loop.run_train(TRAIN_STEP, state, None, steps=7, hooks=recorder.hooks, **options)
    )


def test_one_compilation_serves_a_search_and_it_resumes_bit_for_bit():
    recorder = Recorder(checkpoint_every=1)
    run, votes = search_run(recorder)
    assert run.search.done
    assert all(len(set(column)) > 1 for column in votes.T)  # n and pace of both layers changed
    steps = int(run.train.step)
    vote = steps // 2 // 3 * 3
    for middle in (vote, vote + 1, steps - 1):
        again, _ = search_run(Recorder(), recorder.saves[middle])
        jax.tree.map(np.testing.assert_array_equal, again, run)
    assert len(TRACES) == 1


def test_training_resumes_bit_for_bit():
    recorder = Recorder(checkpoint_every=2)
    end = train_run(recorder)
    assert recorder.saved == [2, 4, 6, 7]
    again = train_run(Recorder(), recorder.saves[4])
    jax.tree.map(np.testing.assert_array_equal, again, end)
    # It would not with another key or other batches: both count.
    for changes in ({"key": jax.random.key(8)}, {"batches": batches_from(3)}):
        other = train_run(Recorder(), recorder.saves[4], **changes)
        assert np.any(other.params["a"] != end.params["a"])


def test_the_loops_give_their_state_away():
    """Of weights, momentum and statistics there is one copy, whatever the step was."""
    searching = loop.SearchRun(fresh(SEARCH_TX), SEARCH.init(PARAMS))
    search_run(Recorder(), searching)
    training = fresh(TRAIN_TX)
    train_run(Recorder(), training)
    for state in (searching.train, training):
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not searching.search.threshold["a"].is_deleted()

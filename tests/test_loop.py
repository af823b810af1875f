"""The steps on hand-drawn numbers, and the loops: when they log, save, vote, stop and resume."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax import loop, losses
from domino_jax.layers import find_layers
from domino_jax.search import Search, SearchState, domino
from domino_jax.sparsify import fixed_masks, sr_ste, survivor_decay, survivors

KEY = jax.random.key(7)


# A network of one product; its statistics follow the inputs and show the key of the last step.
def apply(params, stats, inputs, *, train, key):
    if train:
        mean = 0.9 * stats["mean"] + 0.1 * inputs.mean(0)
        stats = {"mean": mean, "draw": jax.random.uniform(key)}
    return inputs @ params["w"], stats


def total_output(outputs, batch):
    return outputs.sum()


W = [1.0, -4.0, 3.0, 2.0]
X = jnp.array([[1.0, 2.0, 3.0, 4.0]])
BATCH = {"inputs": X, "labels": jnp.array([0])}


# Fresh arrays each time: a step donates its state.
def params():
    return {"w": jnp.array(W)[:, None]}


def stats():
    return {"mean": jnp.zeros(4), "draw": jnp.zeros([])}


def layers():
    return find_layers(lambda p, x: x @ p["w"], params(), X, 4)


def after(step, control, tx, steps=1):
    """Makes some steps with the same batch; returns the loss of the last, and the weights."""
    state = loop.init_state(params(), stats(), tx)
    for _ in range(steps):
        state, loss = step(state, control, BATCH, KEY)
    return float(loss), np.asarray(state.params["w"])[:, 0].tolist()


def test_dense_step():
    tx = optax.sgd(0.5)
    # The gradient of the sum of x w is x.
    expected = 1 - 8 + 9 + 8, [0.5, -5.0, 1.5, 0.0]
    assert after(loop.dense_step(apply, total_output, tx), None, tx) == expected


def test_search_step_masks_and_decays_survivors():
    tx = optax.chain(survivors(), survivor_decay(layers(), 0.5, every=2), optax.sgd(1.0))
    step = loop.search_step(apply, total_output, tx, layers())
    control = {"n": {"w": jnp.int32(2)}, "pace": {"w": jnp.float32(-1.0)}}
    # Kept: -4 and 3; w - x + 0.5 w there.
    assert after(step, control, tx) == (-8 + 9, [1.0, -8.0, 1.5, 2.0])
    # Then 2 of the others has overtaken 1.5: kept are -8 and 2; no decay in the second step.
    assert after(step, control, tx, steps=2) == (-16 + 8, [1.0, -10.0, 1.5, -2.0])


def test_sparse_step_takes_masks_anew():
    tx = optax.chain(sr_ste(0.25), optax.sgd(0.5))
    step = loop.sparse_step(apply, total_output, tx, layers())
    # Gradient x for all; outside the mask also 0.25 w.
    one = [1 - 0.5 - 0.125, -4 - 1.0, 3 - 1.5, 2 - 2.0 - 0.25]
    assert after(step, {"w": jnp.int32(2)}, tx) == (1.0, one)
    assert after(step, {"w": jnp.int32(2)}, tx, steps=2)[0] == 2 * one[1] + 3 * one[2]
    assert after(step, {"w": jnp.int32(1)}, tx, steps=2)[0] == 2 * one[1]


def test_fixed_step_keeps_its_masks():
    tx = fixed_masks(optax.sgd(1.0))
    masks = {"w": jnp.array([[True], [False], [False], [True]])}
    step = loop.fixed_step(apply, total_output, tx)
    assert after(step, masks, tx) == (1 + 8, [0.0, -4.0, 3.0, -2.0])
    assert after(step, masks, tx, steps=2) == (-8, [-1.0, -4.0, 3.0, -6.0])


def test_the_key_of_a_step_is_folded_from_its_number():
    tx = optax.sgd(0.1)
    state = loop.init_state(params(), stats(), tx)._replace(step=jnp.int32(3))
    seen = []
    loop.run_train(
        loop.dense_step(apply, total_output, tx),
        state,
        None,
        itertools.repeat(BATCH),
        KEY,
        steps=6,
        hooks=loop.Hooks(
            log=lambda step, loss, state: seen.append(float(state.stats["draw"])), log_every=1
        ),
    )
    assert seen == [float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in (3, 4, 5)]


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
    state = loop.TrainState(np.int32(start), {}, {}, ())
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


def run_drawn(votes_needed, recorder, *, max_steps=20, stuck=lambda run: "", loss=1.0):
    """Runs a drawn search with a vote every second step; returns the end and the calls."""
    calls = []

    def step(state, control, batch, key):
        calls.append(("step", int(state.step), int(control["n"]["w"])))
        made = state.step + 1
        return state._replace(step=made, params={"steps": made}), jnp.float32(loss)

    zero = np.int32(0)
    start = SearchState(zero, {"w": np.int32(16)}, {}, {}, {}, np.asarray(False), zero)
    train = loop.TrainState(zero, {"steps": zero}, {}, ())
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


SEARCH_STEP = loop.search_step(traced, losses.cross_entropy(), SEARCH_TX, LAYERS)
TRAIN_STEP = loop.dense_step(noisy, losses.cross_entropy(), TRAIN_TX)


def fresh(tx):
    return loop.init_state(jax.tree.map(jnp.copy, PARAMS), {"sum": jnp.zeros([])}, tx)


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


def test_evaluate_counts_each_example_once():
    # Class 1 wins where x > 0. Five examples in batches of two, the last one filled up.
    def net(params, stats, inputs, *, train, key):
        assert not train
        return jnp.concatenate([jnp.zeros_like(inputs), inputs * params + stats], axis=1), stats

    x, labels = np.float32([1, -1, 2, 3, -3, 9]), np.int32([1, 0, 0, 1, 1, 0])
    weight = np.float32([1, 1, 1, 1, 1, 0])
    batches = [
        {"inputs": x[i : i + 2, None], "labels": labels[i : i + 2], "weight": weight[i : i + 2]}
        for i in (0, 2, 4)
    ]
    found = loop.evaluate(loop.eval_step(net), jnp.float32(2), jnp.float32(0), iter(batches))
    margins = 2 * np.where(labels == 1, x, -x)[:5]
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "loss": np.log1p(np.exp(-margins)).mean()}, rel=1e-5
    )


def test_evaluate_of_many_classes_has_the_top5():
    def net(params, stats, inputs, *, train, key):
        return jnp.tile(jnp.arange(12.0), (len(inputs), 1)), stats

    labels = jnp.arange(12, dtype=jnp.int32)
    batch = {"inputs": jnp.zeros((12, 1)), "labels": labels, "weight": jnp.ones(12)}
    found = loop.evaluate(loop.eval_step(net), {}, {}, [batch, batch])
    assert list(found) == ["loss", "accuracy", "top5"]
    assert (found["accuracy"], found["top5"]) == (1 / 12, 5 / 12)


def test_recalibrate_changes_the_statistics_only():
    weights, old = params(), stats()
    batches = [{"inputs": X}, {"inputs": 2 * X}, {"inputs": X}]
    found = loop.recalibrate(apply, weights, old, batches)
    np.testing.assert_allclose(found["mean"], X[0] * (0.081 + 0.18 + 0.1), rtol=1e-6)
    assert np.asarray(weights["w"])[:, 0].tolist() == W
    assert np.asarray(old["mean"]).tolist() == [0] * 4

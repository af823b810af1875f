"""Why a search will not get further, on hand-drawn states."""

import jax.numpy as jnp
import made
import numpy as np
import pytest

from domino_jax.allocate.search import SearchState
from domino_jax.allocate.stall import layer_norms, why_stuck
from domino_jax.core.canonical import Axes

DENSE = Axes((), (), (0,), (1,))
LAYERS = (
    made.layer("a", (8, 4), DENSE, 32, (2, 4)),
    made.layer("stem", (3, 8), DENSE, 24, (), "input size 3 is no multiple of 4"),
    made.layer("b", (4, 2), DENSE, 8, (1, 4)),
    made.layer("table", (9, 4), None, 0, (), "not used"),
)
START = {"a": 2.0, "b": 1.0}


def state(n=(4, 4), pace=(0.5, 0.25), count=7, last_change=7):
    levels = dict(zip("ab", map(jnp.int32, n), strict=True))
    return SearchState(
        count=jnp.int32(count),
        n=levels,
        committed=levels,
        threshold={},
        pace=dict(zip("ab", map(jnp.float32, pace), strict=True)),
        done=jnp.asarray(False),
        last_change=jnp.int32(last_change),
    )


def why(found, norms=START, patience=3):
    return why_stuck(LAYERS, found, norms, START, patience)


def test_a_search_that_moves_is_not_stuck():
    assert why(state()) == ""
    assert why(state(count=9)) == ""


def test_no_change_for_too_many_votes():
    message = "no n changed for 3 votes; the fastest layer is a, pace 0.5"
    assert why(state(count=10)) == message
    assert why(state(count=10), patience=4) == ""
    # a stands at its smallest candidate: it is not the one to wait for.
    assert "fastest layer is b, pace 0.25" in why(state(n=(2, 4), count=99))


def test_no_layer_that_can_move_decays():
    message = "no layer that can still move decays; the fastest is b, pace -0.125"
    assert why(state(pace=(-0.5, -0.125))) == message
    assert why(state(n=(2, 4), pace=(9, -0.125))) == message  # a cannot move
    assert why(state(n=(2, 4), pace=(9, 0.0))).endswith("b, pace 0")
    assert why(state(n=(3, 4), pace=(0.1, -0.125))) == ""


def test_a_layer_that_runs_away():
    message = "b (pace -0.125) grew to a norm of 10.5, from 1 at the start"
    assert why(state(pace=(0.5, -0.125)), {"a": 2.0, "b": 10.5}) == message
    assert why(state(pace=(0.5, -0.125)), {"a": 20.0, "b": 10.0}) == ""


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_broken_weights_run_away_too(norm):
    assert why(state(), {"a": norm, "b": 1.0}).startswith(f"a (pace 0.5) grew to a norm of {norm}")


def test_a_kernel_that_starts_at_zero_may_grow():
    start = {"a": 0.0, "b": 1.0}
    for norm in (0.0, 1e-9, 5.0):
        assert why_stuck(LAYERS, state(), {"a": norm, "b": 1.0}, start, 3) == ""
    assert "a (pace 0.5)" in why_stuck(LAYERS, state(), {"a": np.nan, "b": 1.0}, start, 3)


def test_nothing_left_to_move_is_not_stuck():
    # The budget is within reach, so the vote that brought the last layer there met it.
    assert why(state(n=(2, 1), count=99)) == ""


def test_norms_of_kernels_and_slices():
    stacked = Axes((1,), (), (0,), (2,))
    layers = [made.layer(f"w#{i}", (4, 1), stacked, 4, (1, 2, 4)) for i in (1, 0)]
    layers.append(made.layer("a", (4, 2), DENSE, 8, (1, 2, 4)))
    w = jnp.array([[[3.0], [1.0]], [[4.0], [1.0]], [[0.0], [-1.0]], [[0.0], [1.0]]])
    params = {"w": w, "a": jnp.full((4, 2), 0.5), "bias": jnp.ones(3)}
    found = layer_norms(layers)(params)
    assert list(found) == ["w#1", "w#0", "a"]
    assert found == pytest.approx({"w#1": 2.0, "w#0": 5.0, "a": np.sqrt(2)})
    assert all(isinstance(norm, float) for norm in found.values())

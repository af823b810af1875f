"""Saves beside the steps: in turn, from a copy, and what fails in them is said."""

import os
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, experiment, host, monitor, phases
from domino_jax.run.background import NICE, background

SECONDS = 30  # nothing here waits so long, unless it waits for ever


def fail():
    raise InputError("the disk is full")


def test_work_runs_beside_and_one_after_the_other():
    first_may_end, done = threading.Event(), []

    def first():
        assert first_may_end.wait(SECONDS)
        done.append(1)

    with background("test") as beside:
        beside.start(first)
        beside.check()  # does not wait
        assert done == []
        first_may_end.set()
        beside.start(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a priority")
def test_steps_go_before_the_work_beside_them():
    here, beside_them = [], []

    def priority(found):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def with_a_thread_of_its_own():
        priority(beside_them)
        thread = threading.Thread(target=priority, args=(beside_them,))
        thread.start()
        thread.join()

    with background("test") as beside:
        beside.start(with_a_thread_of_its_own)
        beside.wait()
        priority(here)
    assert beside_them == [max(NICE, here[0])] * 2


@pytest.mark.parametrize("ask", ["check", "wait", "start", "end"])
def test_what_fails_beside_is_raised_here_once(ask):
    with pytest.raises(InputError, match="the disk is full"), background("test") as beside:
        beside.start(fail)
        if ask == "check":
            with pytest.raises(InputError, match="the disk is full"):
                while True:
                    beside.check()
            beside.check()
            fail()
        elif ask == "wait":
            beside.wait()
        elif ask == "start":
            beside.start(lambda: pytest.fail("started after a failure"))


def test_a_failure_beside_is_said_also_when_the_block_ends_otherwise():
    with pytest.raises(InputError, match="the disk is full"), background("test") as beside:
        beside.start(fail)
        raise KeyError("stopped")


def test_a_snapshot_outlives_a_step_that_overwrites_its_input():
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    tree = {"w": jnp.arange(1000.0), "n": jnp.int32(3)}
    held = host.snapshot(tree)
    for _ in range(3):
        tree = step(tree)
    # Views of a device's memory survive too, as long as JAX keeps from overwriting what is viewed.
    assert all(leaf.flags.owndata for leaf in jax.tree.leaves(held))
    np.testing.assert_array_equal(held["w"], np.arange(1000.0))
    assert (held["n"], held["n"].dtype) == (3, np.int32)


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The save of step 5 ends only once step 9 was logged, and still holds step 5."""
    logged, save, steps = threading.Event(), checkpoint.save, []

    def slow(folder, step, state, **options):
        if folder.name == "dense":
            assert steps or logged.wait(SECONDS)
            steps.append((step, int(state.step)))
        save(folder, step, state, **options)

    def log(step, text):
        del text
        if step >= 9:
            logged.set()

    monkeypatch.setattr(phases.checkpoint, "save", slow)
    progress = monitor.progress
    monkeypatch.setattr(monitor, "progress", lambda *names: _told(progress(*names), log))
    settings = scripts.settings("dense.epochs=1", "checkpoint_every=5", "log_every=1")
    exp = experiment.build(settings, tmp_path, lambda: False)
    with scripts.workdir.locked(tmp_path):
        scripts.find.find_scheme(exp)
    assert steps == [(5, 5), (10, 10), (15, 15)]


class _told:  # noqa: N801 (reads as a function)
    """Tells of every step that a progress bar shows."""

    def __init__(self, bar, log):
        self.bar, self.log = bar, log

    def __enter__(self):
        show = self.bar.__enter__()

        def both(step, text):
            show(step, text)
            self.log(step, text)

        return both

    def __exit__(self, *error):
        return self.bar.__exit__(*error)

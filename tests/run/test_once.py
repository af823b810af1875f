"""What is made once in a run: counted, from search.py to the end of train.py."""

import jax
import numpy as np
import pytest
import scripts

from domino_jax.allocate import domino, reach
from domino_jax.core import costs
from domino_jax.run import checkpoint, experiment
from domino_jax.train import evaluation, mesh, optim, placement

QUICK = ("dense.epochs=1", "train.epochs=1", "train.warmup_epochs=0")


class Counted:
    """Wraps functions of modules; counts their calls by name and keeps what they returned."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.returned = monkeypatch, {}

    def watch(self, module, name):
        function, returned = getattr(module, name), self.returned.setdefault(name, [])

        def call(*arguments, **options):
            returned.append(function(*arguments, **options))
            return returned[-1]

        self.monkeypatch.setattr(module, name, call)

    def calls(self, name):
        return len(self.returned[name])


@pytest.fixture
def counted(monkeypatch):
    counted = Counted(monkeypatch)
    counted.watch(jax, "make_mesh")
    counted.watch(optim, "learning_rate")
    counted.watch(costs, "budget_of")
    counted.watch(checkpoint, "restore_parts")
    counted.watch(evaluation, "eval_step")
    counted.watch(domino, "fewest_votes")
    counted.watch(reach, "require_reachable")
    return counted


def test_a_run_makes_each_part_once(tmp_path, counted):
    exp = experiment.build(scripts.settings(*QUICK), tmp_path, lambda: False)
    assert counted.calls("make_mesh") == 1
    assert counted.calls("learning_rate") == 2  # of the dense and of the sparse training
    assert counted.calls("budget_of") == 1
    with scripts.workdir.locked(tmp_path):
        scripts.find.find_scheme(exp)
        scripts.finetune.train_scheme(exp)
    assert counted.calls("make_mesh") == 1
    assert counted.calls("learning_rate") == 2
    assert counted.calls("budget_of") == 1
    # The budget is held against the candidates once, and by nobody else.
    assert counted.calls("fewest_votes") == 1
    assert counted.calls("require_reachable") == 0
    # The dense network, its masks, with both statistics, and the fine-tuned one: one compilation.
    (step,) = counted.returned["eval_step"]
    assert step._cache_size() == 1
    assert len(scripts.results(tmp_path)["train"]) == 5
    # The dense network was read by train.py; no process reads what it has just written.
    assert counted.calls("restore_parts") == 1


def test_a_state_is_replicated_from_device_to_device(monkeypatch):
    devices = placement.Placement(mesh.make_mesh(), {})
    state = {"w": jax.numpy.arange(4.0), "n": np.float32(3)}
    here = placement.place(devices, state)
    asarray = np.asarray

    def through_host(value, *arguments):
        assert not isinstance(value, jax.Array), "went through host memory"
        return asarray(value, *arguments)

    monkeypatch.setattr(placement.np, "asarray", through_host)
    once, again = placement.place(devices, state), placement.place(devices, here)
    monkeypatch.undo()
    jax.jit(lambda state: state, donate_argnums=0)((once, again))
    assert float(state["w"][3]) == float(here["w"][3]) == 3.0

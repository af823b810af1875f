"""Dense networks that come from a file and are sparse already."""

import sys
import types

import jax
import numpy as np
import pytest
import scripts
import tiny

from domino_jax import models
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import load
from domino_jax.run import checkpoint, rehearsal
from domino_jax.run.experiment import build, weights_of


def saved(folder, change):
    """Saves the network of the tiny config with a changed kernel; returns the setting."""
    network = tiny.network(example=np.zeros((1, 4, 4, 4), np.float32), classes=3, seed=0)
    params = {name: {"kernel": np.array(leaf["kernel"])} for name, leaf in network.params.items()}
    change(params)
    checkpoint.save(folder, 3, {"params": params, "stats": network.stats})
    return f"init={folder}"


def halved(params):
    """Keeps the first two of every four inputs."""
    for leaf in params.values():
        kernel = leaf["kernel"]
        kernel[..., np.arange(kernel.shape[-2]) % 4 >= 2, :] = 0


def test_a_search_goes_on_from_a_sparse_network(tmp_path):
    init = saved(tmp_path / "init", halved)
    scripts.search(tmp_path / "lower", init, "search.budget=0.4", "search.lr=1e-3")
    counts = [nm.n for nm in load(tmp_path / "lower" / "scheme.json").values()]
    assert max(counts) == 2
    assert min(counts) == 1


def test_a_sparse_network_that_meets_the_budget_needs_no_step(tmp_path):
    init = saved(tmp_path / "init", halved)
    scripts.search(tmp_path / "met", init, "search.budget=0.5")
    assert [nm.n for nm in load(tmp_path / "met" / "scheme.json").values()] == [2, 2, 2]
    assert scripts.results(tmp_path / "met")["search"]["steps"] == 0


def without_statistics(*, example, classes, seed):
    """Two matrices, and no state."""
    given = tiny.network(example=example, classes=classes, seed=seed).params
    params = {
        "stem": given["stem"]["kernel"][0, 0],
        "fc": given["body"]["kernel"][0, 0, :, :classes],
    }
    return models.plain(lambda p, x: x.mean((1, 2)) @ p["stem"] @ p["fc"], params)


NO_TRAINING = ("search.budget=0.5", "search.method=uniform", "train.method=none")


def test_a_batch_of_a_dense_phase_that_does_not_run_is_not_refused(tmp_path):
    """The batch of the tests is that of the dense phase: it may be larger than the data."""
    too_large = "dense.batch=512"  # of 240 training examples
    init = saved(tmp_path / "init", lambda params: None)
    scripts.search(tmp_path / "run", init, too_large, *NO_TRAINING)
    scripts.train(tmp_path / "run", init, too_large, *NO_TRAINING)
    assert "masked" in scripts.results(tmp_path / "run")["train"]
    with pytest.raises(InputError, match=r"^dense\.batch: expected at most the 240 training"):
        scripts.search(tmp_path / "other", too_large, *NO_TRAINING)


def test_a_rehearsal_refuses_the_batch_of_a_phase_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init = saved(tmp_path / "init", lambda params: None)
    rehearsal.rehearse(scripts.settings(init, "dense.batch=512", *NO_TRAINING))
    with pytest.raises(InputError, match=r"^dense\.batch: expected at most the 240 training"):
        rehearsal.rehearse(scripts.settings("dense.batch=512", *NO_TRAINING))


@pytest.mark.parametrize("network", ["tiny:network", "tiny_plain:network"])
def test_recalibrated_is_a_row_where_there_are_statistics(network, tmp_path, capsys, monkeypatch):
    plain = types.ModuleType("tiny_plain")
    plain.network = without_statistics
    monkeypatch.setitem(sys.modules, "tiny_plain", plain)
    settings = (f"model.name={network}", "dense.epochs=1", *NO_TRAINING)
    scripts.search(tmp_path, *settings)
    capsys.readouterr()
    scripts.train(tmp_path, *settings)
    rows = [line for line in capsys.readouterr().out.splitlines() if "masked without" in line]
    has_statistics = network == "tiny:network"
    assert ("recalibrated" in scripts.results(tmp_path)["train"]) == has_statistics
    assert len(rows) == 1 + has_statistics
    assert ("batch statistics" in "".join(rows)) == has_statistics


UNIFORM = ("search.method=uniform", "search.nm=1:4", "dense.epochs=1", "train.epochs=1")


def test_the_trained_network_gets_new_statistics_where_asked(tmp_path, capsys):
    """The weights stay; one training step later the statistics would still be mostly old."""
    found = []
    for recalibrate in ("False", "True"):
        folder = tmp_path / recalibrate
        settings = (*UNIFORM, f"train.recalibrate={recalibrate}")
        scripts.search(folder, *settings)
        scripts.train(folder, *settings)
        exp = build(scripts.settings(*settings), folder, lambda: False)
        found.append(checkpoint.restore_parts(folder / "train" / "sparse", weights_of(exp.model)))
    jax.tree.map(np.testing.assert_array_equal, *(each["params"] for each in found))
    before, after = (each["stats"]["mean"] for each in found)
    assert np.abs(before - after).max() > 0
    printed = capsys.readouterr().out
    assert printed.count("fine-tuned, recalibrated batch statistics") == 1

"""`--config.permute`: the network computes what it did, and N:M keeps more of it."""

import numpy as np
import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path
from domino_jax.run.dense import dense_weights
from domino_jax.run.experiment import build

UNIFORM = ("search.method=uniform", "search.nm=1:4", "train.method=none", "dense.epochs=1")


def test_a_run_with_channels_in_another_order(tmp_path, capsys):
    plain, ordered = tmp_path / "plain", tmp_path / "ordered"
    scripts.search(plain, *UNIFORM)
    scripts.train(plain, *UNIFORM)
    capsys.readouterr()
    scripts.search(ordered, *UNIFORM, "permute=1:4")
    scripts.train(ordered, *UNIFORM, "permute=1:4")
    (line, *_) = [line for line in capsys.readouterr().err.split("\n") if "permute" in line]
    assert line.startswith("permute: 1:4 with the inputs of 2 of 3 kernels in a better order")
    assert line.endswith("as they were: stem/kernel")
    before, after = (scripts.results(folder)["train"] for folder in (plain, ordered))
    assert after["dense"]["loss"] == pytest.approx(before["dense"]["loss"], rel=1e-5)
    assert after["masked"]["loss"] != before["masked"]["loss"]
    with pytest.raises(InputError, match="made with other settings: permute '1:4' there, '' here"):
        scripts.train(ordered, *UNIFORM)


def test_statistics_move_along(tmp_path):
    """And no weight is lost: every array has the numbers that it had."""
    scripts.search(tmp_path, *UNIFORM)
    scripts.train(tmp_path, *UNIFORM)
    found = {}
    for key in ("", "1:4"):
        exp = build(scripts.settings(f"permute={key}", *UNIFORM), tmp_path, lambda: False)
        found[key] = [leaves_by_path(tree) for tree in dense_weights(exp)]
    for before, after in zip(found[""], found["1:4"], strict=True):
        for path, leaf in before.items():
            assert np.sort(leaf, None).tolist() == np.sort(after[path], None).tolist()
    stem = [np.asarray(params["stem/kernel"]).sum((0, 1, 2)) for params, _ in found.values()]
    mean = [np.asarray(stats["mean"]).ravel() for _, stats in found.values()]
    assert stem[0].tolist() != stem[1].tolist()
    np.testing.assert_array_equal(*(m[np.argsort(s)] for m, s in zip(mean, stem, strict=True)))


def test_a_group_size_that_no_layer_has_is_refused_before_the_training(tmp_path):
    with pytest.raises(InputError, match=r"^permute: nm: expected N:M of M = 4, .*got 2:8"):
        scripts.search(tmp_path, "permute=2:8")
    assert not (tmp_path / "dense").exists()

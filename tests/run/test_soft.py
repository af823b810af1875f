"""Soft and scheduled trainers, and distillation, through the scripts: the same end after a stop."""

import shutil

import numpy as np
import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.run import rehearsal
from domino_jax.train import loop

QUICK = (
    *("search.method=uniform", "dense.epochs=0.3", "train.epochs=0.8", "train.warmup_epochs=0"),
    *("checkpoint_every=100", "train.ramp_until=0.9"),
)
STEPS, DENSE_STEPS = 12, 4  # the search needs no dense network: the training makes it first
ADAM = ("train.optimizer=adamw", "train.lr=0.005")
WAYS = {
    "step": ("train.method=step", *ADAM),
    "decaying mask": ("train.method=decaying_mask", "train.ramp_until=1.0"),
    "decaying structure": ("train.method=decaying_structure", "train.mask_every=2"),
    "maxq": ("train.method=maxq", "train.mask_every=3", "train.ramp=cubic"),
    "sr_ste, distilled": ("train.distill=0.5", "train.ramp=cubic", "train.mask_every=4"),
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "run"
    scripts.search(folder, *QUICK)
    return folder


@pytest.fixture
def copy(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


def stop_after(steps):
    left = iter(range(steps))
    return lambda: next(left, None) is None


def sparse_weights(folder):
    return scripts.arrays(folder / "train" / "sparse")["params/body/kernel"]


@pytest.mark.parametrize("way", WAYS)
def test_stopped_in_the_middle_it_ends_the_same(way, searched, copy, tmp_path, capsys):
    settings = (*QUICK, *WAYS[way])
    whole = shutil.copytree(searched, tmp_path / "whole")
    scripts.train(whole, *settings)
    out = capsys.readouterr().out
    with pytest.raises(loop.Stopped, match=r"at step 7$"):
        scripts.train(copy, *settings, should_stop=stop_after(DENSE_STEPS + 7))
    with pytest.raises(InputError, match=rf"^evaluate: .* is at step 7 of {STEPS}, .* without eva"):
        scripts.train(copy, *settings, "evaluate=True")
    scripts.train(copy, *settings)
    for folder in ("train", "train/sparse"):
        scripts.require_same_arrays(whole / folder, copy / folder)
    results = scripts.results(whole)
    assert scripts.results(copy) == results
    groups = np.moveaxis(sparse_weights(whole), -2, -1).reshape(-1, 4)
    assert (groups != 0).sum(-1).max() == 2
    assert {"before the last hardening" in out, "the last hardening of the masks:" in out} == {True}
    if way == "decaying mask":
        scripts.train(whole, *settings, "evaluate=True")
        assert scripts.results(whole) == results
    lost = results["train"]["tuned"]["loss"] - results["train"]["soft"]["loss"]
    assert (lost != 0) == (way == "decaying mask")  # its ramp ends with the training alone


def test_a_rehearsal_has_a_teacher(capsys):
    rehearsal.rehearse(scripts.settings(*QUICK, "train.distill=0.5", "train.method=maxq"))
    assert "loss" in capsys.readouterr().out


def test_a_hard_trainer_has_no_hardening_and_a_teacher_changes_it(copy, tmp_path, capsys):
    other = shutil.copytree(copy, tmp_path / "other")
    scripts.train(copy, *QUICK)
    assert "hardening" not in capsys.readouterr().out
    assert "soft" not in scripts.results(copy)["train"]
    scripts.train(other, *QUICK, "train.distill=1", "train.temperature=4")
    assert not np.array_equal(sparse_weights(copy), sparse_weights(other))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.ramp_until=1.5"], r"^train\.ramp_until: expected a number above 0, up to 1, got"),
        (["train.ramp_from=0.9"], r"^train\.ramp_from: expected less than .* = 0.9, got 0\.9$"),
        (["train.ramp=square"], r"^train\.ramp: expected one of '', 'linear', 'cubic', got 'sq"),
        (["train.switch=(0.5,0.2)"], r"^train\.switch: expected two shares .* got \(0\.5, 0\.2\)$"),
        (["train.method=step"], r"^train\.optimizer: expected 'adamw' .* got 'sgd'$"),
        (["train.method=fixed", "train.ramp=cubic"], r"where train\.method is 'fixed', which make"),
        (["train.method=none", "train.mask_every=2"], r"where train\.method is 'none', which make"),
        (["train.distill=2"], r"^train\.distill: expected a number from 0 to 1, got 2"),
        (["train.mask_evry=2"], r"^unknown setting 'train\.mask_evry'; nearest: train\.mask_every"),
    ],
)
def test_wrong_settings_are_refused(settings, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        scripts.search(tmp_path, *QUICK, *settings)

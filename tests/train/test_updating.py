"""Masks by a score, made once; and weights that make up for those that go, without training."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from jax import lax

from domino_jax.allocate.scores import make_scores
from domino_jax.core.errors import InputError
from domino_jax.core.masked import PATTERNS, apply_masks, make_masks
from domino_jax.trace.layers import find_layers
from domino_jax.train.trainer import Training
from domino_jax.train.trainers import make_trainer

RNG = np.random.default_rng(0)
N = {name: np.int32(2) for name in "abc"}
OPTIONS = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "sr_ste": 0.1}


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


PARAMS = {"a": normal(16, 16) / 4, "b": normal(16, 16) / 4, "c": normal(16, 8) / 4}
# Inputs that go together, so that some can stand in for others, and are not equally large.
X = [normal(64, 4) @ normal(4, 16) * jnp.linspace(0.1, 2, 16)[None] for _ in range(2)]


def apply(params, x):
    x = jnp.tanh(x @ params["a"])
    x = lax.cond(x.sum() < 1e9, lambda x, w: jnp.sin(x), lambda x, w: x @ w, x, params["b"])
    return x @ params["c"]


LAYERS = find_layers(apply, PARAMS, X[0], 4)
BATCHES = [{"x": x, "y": apply(PARAMS, x)} for x in X]


@jax.jit
def loss(params, batch):
    return jnp.square(apply(params, batch["x"]) - batch["y"]).mean()


def training(said=None, *, pattern="n:m", **options):
    return Training(
        LAYERS,
        3,
        lambda step: 0.1,
        OPTIONS | options,
        PATTERNS[pattern],
        batches=partial(iter, BATCHES),
        loss=loss,
        say=[].append if said is None else said.append,
    )


def result(trainer):
    start = trainer.init(PARAMS, N)
    return trainer.finish(start.params, start.state, start.target)


def marks(params):
    return {path: np.asarray(leaf != 0) for path, leaf in params.items()}


@cache
def masks_by(score):
    scores = make_scores(score, LAYERS, PARAMS, loss, BATCHES)
    return {path: np.asarray(m) for path, m in make_masks(PARAMS, LAYERS, N, scores=scores).items()}


def total(params):
    return sum(float(loss(params, batch)) for batch in BATCHES)


@pytest.mark.parametrize("score", [None, "magnitude", "wanda", "fisher"])
def test_weights_that_stay_make_up_for_the_others(score):
    made = result(make_trainer("update", training(score=score)))
    masked = apply_masks(PARAMS, masks_by(score or "magnitude"))
    assert total(made) < 0.8 * total(masked)
    kept = marks(made)
    for path in "ac":
        assert (kept[path].reshape(-1, 4, kept[path].shape[1]).sum(1) == 2).all()
    if score:
        np.testing.assert_equal(kept, masks_by(score))


def test_without_a_score_the_update_chooses():
    kept = marks(result(make_trainer("update", training())))
    assert any((kept[path] != masks_by("magnitude")[path]).any() for path in "ac")


def test_as_many_weights_wherever_they_lie_are_updated_too():
    made = result(make_trainer("update", training(pattern="unstructured")))
    masks = PATTERNS["unstructured"](PARAMS, LAYERS, N)
    np.testing.assert_equal(marks(made), {path: np.asarray(mask) for path, mask in masks.items()})
    assert total(made) < total(apply_masks(PARAMS, masks))


@pytest.mark.parametrize("score", [None, "wanda"])
def test_a_layer_that_nobody_sees_keeps_its_masked_weights_and_is_named(score):
    said = []
    made = result(make_trainer("update", training(said, score=score)))
    masks = make_masks(PARAMS, LAYERS, N) if score is None else masks_by(score)
    np.testing.assert_array_equal(made["b"], jnp.where(masks["b"], PARAMS["b"], 0.0))
    assert said == [
        "b is masked and not updated, its inputs cannot be seen: no example's loss depends on it"
    ]


@pytest.mark.parametrize("name", ["fixed", "none"])
@pytest.mark.parametrize("score", ["wanda", "fisher"])
def test_masks_that_are_made_once_go_by_any_score(name, score):
    masks = masks_by(score)
    assert any((masks[path] != masks_by("magnitude")[path]).any() for path in masks)
    made = result(make_trainer(name, training(score=score)))
    for path, mask in masks.items():
        np.testing.assert_array_equal(made[path], jnp.where(mask, PARAMS[path], 0.0))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sr_ste", {}, r"train\.score: .*anew at every step .*got 'wanda'"),
        ("straight_through", {}, r"train\.score: .*anew at every step .*got 'wanda'"),
        ("fixed", {"pattern": "unstructured"}, r"train\.score: .*train\.pattern .*got 'wanda'"),
        ("none", {"pattern": "unstructured"}, r"train\.score: .*train\.pattern .*got 'wanda'"),
    ],
)
def test_a_score_that_would_not_count_is_refused(name, options, said):
    make_trainer(name, training(score=None))
    make_trainer(name, training(score="magnitude", **options))
    with pytest.raises(InputError, match=said):
        make_trainer(name, training(score="wanda", **options))


def test_it_asks_for_data():
    bare = Training(LAYERS, 3, lambda step: 0.1, OPTIONS)
    with pytest.raises(InputError, match="expected a Training with a loss and batches"):
        make_trainer("update", bare)


QUICK = ("search.method=uniform", "dense.epochs=4", "dense.warmup_epochs=0")


def test_a_run_that_updates(tmp_path, capsys):
    """Of a network with batch statistics: better than its masks, the same again, and resumed."""
    updating = (*QUICK, "train.method=update")
    scripts.search(tmp_path, *updating)
    capsys.readouterr()
    scripts.train(tmp_path, *updating)
    (said, shown), found = capsys.readouterr(), scripts.results(tmp_path)["train"]
    assert set(found) == {"dense", "masked", "recalibrated", "updated", "shares"}
    assert "update 1/" in shown
    assert "updated without training" in said
    assert found["updated"]["loss"] < min(
        found[name]["loss"] for name in ("masked", "recalibrated")
    )
    body = scripts.arrays(tmp_path / "train" / "sparse")["params/body/kernel"]
    assert ((np.moveaxis(body, -2, -1) != 0).reshape(-1, 4).sum(-1) == 2).all()
    scripts.train(tmp_path, *updating)
    assert scripts.results(tmp_path)["train"] == found
    scripts.train(tmp_path, *updating, "evaluate=True")
    assert scripts.results(tmp_path)["train"] == found
    again = scripts.arrays(tmp_path / "train" / "sparse")["params/body/kernel"]
    np.testing.assert_array_equal(again, body)


def test_a_run_under_masks_by_a_score(tmp_path):
    """The masked network is that of the score, and so are the masks of a training."""

    def run(*how):
        scripts.train(tmp_path, *QUICK, *how, anew=True)
        sparse = scripts.arrays(tmp_path / "train" / "sparse")["params/body/kernel"]
        return scripts.results(tmp_path)["train"], sparse != 0

    scripts.search(tmp_path, *QUICK)
    plain, by_magnitude = run("train.method=none")
    found, by_score = run("train.method=none", "train.score=wanda")
    assert (by_score != by_magnitude).any()
    assert set(found) == set(plain)  # there is no network but the masked one
    assert found["dense"] == plain["dense"]
    assert found["masked"] != plain["masked"]
    short = ("train.epochs=1", "train.warmup_epochs=0")
    tuned, kept = run("train.method=fixed", "train.score=wanda", *short)
    assert tuned["masked"] == found["masked"]
    assert tuned["tuned"] != found["masked"]
    np.testing.assert_array_equal(kept, by_score)


@pytest.mark.parametrize("how", ["train.method=update", "train.score=wanda"])
def test_too_few_batches_are_said_before_anything_is_trained(how, tmp_path):
    settings = ("train.method=none", how, "train.calibration_batches=16")
    with pytest.raises(
        InputError,
        match=r"train\.calibration_batches: expected at most 15 \(of train.batch = 16, from 240 ",
    ):
        scripts.search(tmp_path, *settings)
    assert not (tmp_path / "dense").exists()

"""Trainers by name: ours against PyTorch's rule in numpy, and those of someone else."""

import sys

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
import scripts

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.masked import PATTERNS
from domino_jax.train.step import first_state, trainer_step
from domino_jax.train.trainer import Trainer, Training
from domino_jax.train.trainers import TRAINERS, make_trainer, no_trainer

# Two of four are kept: -4 and 3.
W = [1.0, -4.0, 3.0, 2.0]
G = [0.1, 0.2, -0.3, 0.4]
LAYERS = (made.layer("w", (4, 1), Axes((), (), (0,), (1,)), 4, (1, 2, 4)),)
N = {"w": np.int32(2)}
OPTIONS = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.25, "sr_ste": 0.5}


@pytest.fixture
def loose_promotion():
    """Optax's own bias correction mixes float and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def params():
    return {"w": jnp.array(W)[:, None], "b": jnp.array([0.5])}


def make(name, **options):
    return make_trainer(name, Training(LAYERS, 3, lambda step: 0.1, OPTIONS | options))


def train(trainer, steps):
    """Makes some steps with the same gradient; returns the weights after each, and the end."""
    start = trainer.init(params(), N)
    state = first_state(start.params, {}, start.state)

    def apply(params, stats, inputs, *, train, key):
        return params["w"][:, 0] @ inputs + params["b"][0], stats

    step = trainer_step(apply, lambda outputs, batch: outputs, trainer)
    seen = []
    for _ in range(steps):
        state, _ = step(state, start.target, {"inputs": jnp.array(G)}, jax.random.key(0))
        seen.append(np.asarray(state.params["w"])[:, 0].tolist())
    return seen, np.asarray(trainer.finish(state.params, state.opt_state, start.target)["w"])[:, 0]


def as_torch(steps, extra, kept=(False, True, True, False)):
    """SGD of rate 0.1 with a decay of masked weights, of all weights, and momentum."""
    w, velocity, seen = np.array(W), np.zeros(4), []
    for _ in range(steps):
        velocity = 0.9 * velocity + G + extra * np.where(kept, 0, w) + 0.25 * w
        w = w - 0.1 * velocity
        seen.append(w.tolist())
    return seen


@pytest.mark.parametrize(("name", "extra"), [("sr_ste", 0.5), ("straight_through", 0.0)])
def test_the_term_comes_before_decay_and_momentum(name, extra):
    seen, end = train(make(name), 3)
    np.testing.assert_allclose(seen, as_torch(3, extra), rtol=1e-5)
    np.testing.assert_allclose(end, np.where([False, True, True, False], seen[-1], 0), rtol=0)


def test_fixed_masks_leave_the_rest_at_zero():
    seen, end = train(make("fixed"), 3)
    expected = np.where([False, True, True, False], as_torch(3, 0.0), 0.0)
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert end.tolist() == seen[-1]


# The two largest are of one group: 2:4 would keep one of each.
UNEVEN = {"w": jnp.array([1.0, -4.0, 3.0, 2.5, 2.0, -1.0, 0.5, 0.0])[:, None]}


@pytest.mark.parametrize("name", ["sr_ste", "straight_through", "fixed", "none"])
def test_zeros_of_another_pattern(name):
    layers = (made.layer("w", (8, 1), Axes((), (), (0,), (1,)), 8, (1, 2, 4)),)
    rest = Training(layers, 3, lambda step: 0.1, OPTIONS, PATTERNS["unstructured"])
    trainer = make_trainer(name, rest)
    start = trainer.init(UNEVEN, {"w": np.int32(1)})
    seen, _ = trainer.forward(start.params, start.state, start.target)
    expected = [0, -4, 3, 0, 0, 0, 0, 0]
    if trainer.update is not None:
        assert seen["w"][:, 0].tolist() == expected
    end = trainer.finish(start.params, start.state, start.target)
    assert end["w"][:, 0].tolist() == expected


def test_none_trains_nothing():
    trainer = make("none")
    assert trainer.update is None
    seen, end = train(trainer, 2)
    assert seen == [W, W]
    assert end.tolist() == [0.0, -4.0, 3.0, 0.0]


@pytest.mark.usefixtures("loose_promotion")
def test_the_term_goes_through_adam_or_stands_beside_it():
    # Outside the mask the gradients 0.1 and 0.4 have the sign of the term, 0.5 w: no change of
    # the first step through Adam; beside it 0.1 * 0.5 w is added.
    plain = [1 - 0.1, -4 - 0.1, 3 + 0.1, 2 - 0.1]
    for name, optimizer, expected in (
        ("sr_ste", "adamw", plain),
        ("sr_ste", "adamw_decoupled", np.subtract(plain, [0.05, 0, 0, 0.1])),
        ("straight_through", "adamw", plain),
    ):
        (seen,), _ = train(make(name, optimizer=optimizer, weight_decay=0.0), 1)
        assert seen == pytest.approx(expected, abs=1e-4), (name, optimizer)


@pytest.mark.parametrize("name", ["fixed", "straight_through"])
def test_only_sr_ste_has_a_term_to_stand_beside_adam(name):
    with pytest.raises(InputError, match=r"train\.optimizer: .*got 'adamw_decoupled'"):
        make(name, optimizer="adamw_decoupled")
    make("sr_ste", optimizer="adamw_decoupled")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sr-ste", "unknown trainer 'sr-ste'; nearest: sr_ste"),
        ("own_parts:nothing", "'own_parts:nothing': expected a Trainer.* got a NoneType"),
        ("own_parts:absent", "unknown factory of own_parts 'absent'"),
    ],
)
def test_what_is_no_trainer_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        make(name)


def test_a_soft_mask_passes():
    """The loss sees half of the others, half of the gradient reaches them; in the end none is."""
    (seen,), end = train(make("own_parts:softly", momentum=0.0, weight_decay=0.0), 1)
    share = np.array([0.5, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(seen, W - 0.1 * share * G, rtol=1e-6)
    assert (end != 0).tolist() == [False, True, True, False]


def test_one_compilation_serves_any_n():
    traces = []
    trainer = make("sr_ste")

    def apply(params, stats, inputs, *, train, key):
        traces.append(1)
        return params["w"][:, 0] @ inputs, stats

    step = trainer_step(apply, lambda outputs, batch: outputs, trainer)
    for n in (1, 2, 4):
        start = trainer.init(params(), {"w": jnp.int32(n)})
        state = first_state(start.params, {}, start.state)
        step(state, start.target, {"inputs": jnp.array(G)}, jax.random.key(0))
    assert len(traces) == 1


QUICK = ("search.method=uniform", "dense.epochs=1", "train.epochs=1", "train.warmup_epochs=0")


def sparse_weights(folder):
    return scripts.arrays(folder / "train" / "sparse")["params/body/kernel"]


def largest_count(weights):
    return (np.moveaxis(weights, -2, -1) != 0).reshape(-1, 4).sum(-1).max()


def test_a_trainer_of_ones_own_runs(tmp_path):
    """What train.py does with it."""
    scripts.search(tmp_path, *QUICK)
    scripts.train(tmp_path, *QUICK, "train.method=own_parts:softly")
    assert largest_count(sparse_weights(tmp_path)) == 2
    assert "tuned" in scripts.results(tmp_path)["train"]


def test_a_trainer_that_leaves_too_many_is_refused(tmp_path):
    scripts.search(tmp_path, *QUICK)
    with pytest.raises(InputError, match=r"'own_parts:unfinished': expected at most n of M .*nel"):
        scripts.train(tmp_path, *QUICK, "train.method=own_parts:unfinished")


@pytest.mark.parametrize("how", ["train.method=none", "train.epochs=0"])
def test_masking_alone(how, tmp_path, capsys):
    settings = [s for s in QUICK if not s.startswith(how.partition("=")[0])]
    scripts.search(tmp_path, *settings)
    capsys.readouterr()
    scripts.train(tmp_path, *settings, how)
    assert largest_count(sparse_weights(tmp_path)) == 2
    dense = scripts.arrays(tmp_path / "dense")["params/body/kernel"]
    kept = sparse_weights(tmp_path) != 0
    np.testing.assert_array_equal(sparse_weights(tmp_path)[kept], dense[kept])
    results = scripts.results(tmp_path)["train"]
    assert set(results) == {"dense", "masked", "recalibrated", "shares"}
    assert "fine-tuned" not in capsys.readouterr().out
    scripts.train(tmp_path, *settings, how, "evaluate=True")
    assert scripts.results(tmp_path)["train"] == results


def test_every_name_is_tested():
    soft = {"step", "decaying_mask", "decaying_structure", "maxq"}  # in test_soft_trainers.py
    assert set(TRAINERS) == {"sr_ste", "straight_through", "fixed", "none", "update"} | soft


def failing(training):
    return {}["lost"]


def of_functions_that_fail(training):
    def fails(*arguments):
        sys.exit(0)

    return Trainer(init=fails, forward=fails, update=fails, finish=fails)


def test_a_trainer_of_ones_own_that_fails_is_named_with_file_and_line():
    name = f"{__name__}:failing"
    with pytest.raises(InputError, match=rf"^trainer '{name}': KeyError: 'lost' \(.*\.py, line \d"):
        make(name)


@pytest.mark.parametrize(
    ("function", "arguments"), [("init", 2), ("forward", 3), ("update", 5), ("finish", 3)]
)
def test_a_function_of_a_trainer_of_ones_own_that_fails_is_named_too(function, arguments):
    name = f"{__name__}:of_functions_that_fail"
    with pytest.raises(InputError, match=rf"^trainer '{name}': SystemExit: 0 \(.*\.py, line \d"):
        getattr(make(name), function)(*[None] * arguments)


def test_a_trainer_of_ones_own_may_train_nothing():
    assert make(f"{__name__}:training_nothing").update is None


def training_nothing(training):
    return no_trainer(training)


@pytest.mark.parametrize(("name", "options"), [("sr_ste", {}), ("step", {"optimizer": "adamw"})])
def test_an_option_that_is_missing_is_named(name, options):
    with pytest.raises(InputError, match=r"^options: expected '\w+' among them \(docs/settings.md"):
        make_trainer(name, Training(LAYERS, 3, lambda step: 0.1, options))

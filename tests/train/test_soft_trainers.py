"""Soft and scheduled trainers: each against its paper's formula in numpy, in float64."""

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.order import two_smallest_from
from domino_jax.train.decay import decay_masked
from domino_jax.train.maxq import axis_factors, rising_masks
from domino_jax.train.precondition import scale_by_step
from domino_jax.train.ramps import gradual_n, halved_n, make_ramp
from domino_jax.train.step import first_state, trainer_step
from domino_jax.train.trainer import Training
from domino_jax.train.trainers import make_trainer

# Two of four are kept: -4 and 3.
W = [1.0, -4.0, 3.0, 2.0]
G = [0.1, 0.2, -0.3, 0.4]
KEPT = np.array([False, True, True, False])
IO = Axes((), (), (0,), (1,))
HWIO = Axes((), (0, 1), (2,), (3,))
LAYERS = (made.layer("w", (4, 1), IO, 4, (1, 2, 4)),)
N = {"w": np.int32(2)}
OPTIONS = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "sr_ste": 0.0,
    "ramp_from": 0.0,
    "ramp_until": 1.0,
    "switch": (0.5, 0.5),
}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def make(name, steps=4, **options):
    return make_trainer(name, Training(LAYERS, steps, lambda step: 0.1, OPTIONS | options))


def train(trainer, steps, *, w=W, grads=None):
    """Returns the weights, and what the loss saw of them, before each step; and the end."""
    start = trainer.init({"w": jnp.array(w)[:, None], "b": jnp.array([0.5])}, N)
    state = first_state(start.params, {}, start.state)

    def apply(params, stats, inputs, *, train, key):
        return params["w"][:, 0] @ inputs + params["b"][0] * inputs[0], stats

    step = trainer_step(apply, lambda outputs, batch: outputs, trainer)
    held, seen = [], []
    for i in range(steps):
        softly, _ = trainer.forward(state.params, state.opt_state, start.target)
        held.append(np.asarray(state.params["w"])[:, 0])
        seen.append(np.asarray(softly["w"])[:, 0])
        inputs = jnp.array(G if grads is None else grads[i])
        state, _ = step(state, start.target, {"inputs": inputs}, jax.random.key(0))
    held.append(np.asarray(state.params["w"])[:, 0])
    end = trainer.finish(state.params, state.opt_state, start.target)
    return np.array(held), np.array(seen), np.asarray(end["w"])[:, 0], state


def test_a_ramp_falls_between_its_ends():
    ramp = make_ramp("cubic", 0.25, 0.75, 8)
    left = [float(ramp.left(jnp.int32(count))) for count in range(8)]
    assert left == [1, 1, 1, 0.75**3, 0.5**3, 0.25**3, 0, 0]


def test_after_the_training_the_last_step_is_what_counts():
    """A ramp that ends with the training leaves something for the hardening."""
    ramp = make_ramp("linear", 0.0, 1.0, 4)
    assert [float(ramp.left(jnp.int32(count))) for count in (3, 4, 9)] == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("ends", [(0.0, 1.5), (0.5, 0.5), (-0.1, 0.5)])
def test_a_ramp_outside_the_training_is_refused(ends):
    with pytest.raises(InputError, match=r"train\.ramp_from, train\.ramp_until: .* got"):
        make_ramp("linear", *ends, 8)


def stacked(m):
    return tuple(
        made.layer(f"w#{i}", (2 * m, 1), Axes((0,), (), (1,), (2,)), 4, (1, m)) for i in range(4)
    )


def test_each_layer_falls_at_its_own_pace():
    last = {"w": np.array([1, 4, 15, 16], np.int32)}
    layers = stacked(16)
    halves = {
        1.0: [15, 15, 15, 16],
        0.75: [8, 15, 15, 16],
        0.5: [4, 8, 15, 16],
        0.25: [2, 8, 15, 16],
        0.0: [1, 4, 15, 16],
    }
    for left, expected in halves.items():
        found = halved_n(layers, last, jnp.asarray(left))["w"]
        assert found.tolist() == expected, left
    gradual = {1.0: [16, 16, 16, 16], 0.5: [9, 10, 16, 16], 0.2: [4, 7, 16, 16]}
    for left, expected in (gradual | {0.0: last["w"].tolist()}).items():
        found = gradual_n(layers, last, left)["w"]
        assert found.tolist() == expected, left
    assert found.dtype == jnp.int32


def test_a_decaying_mask_and_its_gradient():
    """w (mask + (1 - mask) left): the pruned ones and their gradients are a share of themselves."""
    held, seen, end, _ = train(make("decaying_mask"), 4)
    w = np.array(W)
    for i, left in enumerate([1, 0.75, 0.5, 0.25]):
        share = np.where(KEPT, 1, left)
        np.testing.assert_allclose(held[i], w, rtol=1e-12)
        np.testing.assert_allclose(seen[i], w * share, rtol=1e-12)
        w = w - 0.1 * share * np.array(G)
    np.testing.assert_allclose(end, np.where(KEPT, w, 0), rtol=1e-12)


def test_a_decayed_weight_that_is_nan_reaches_the_loss():
    masks = {"w": jnp.array([True, False])}
    assert np.isnan(decay_masked({"w": jnp.array([1.0, jnp.nan])}, masks, 0.0)["w"][1])


def test_a_decaying_structure_prunes_one_more_at_a_time():
    trainer = make("decaying_structure", ramp_until=0.5)
    _, seen, end, _ = train(trainer, 4, grads=np.zeros((4, 4)))
    assert [(each != 0).tolist() for each in seen] == [
        [False, True, True, True],
        [False, True, True, True],
        *[KEPT.tolist()] * 2,
    ]
    assert end.tolist() == [0, -4, 3, 0]


def test_sr_ste_rises_along_a_ramp():
    trainer = make("sr_ste", ramp="cubic", ramp_until=0.5, sr_ste=0.5)
    held, seen, _, _ = train(trainer, 4, grads=np.zeros((4, 4)))
    assert (seen != 0).sum(-1).tolist() == [4, 3, 2, 2]  # 2 + ceil(2 (1/2)^3)
    assert trainer.soft
    assert held[1].tolist() == W  # nothing is outside the masks of the first step
    np.testing.assert_allclose(held[2], [1 - 0.1 * 0.5, *W[1:]])


@pytest.mark.parametrize("method", ["sr_ste", "decaying_mask"])
def test_masks_are_made_every_few_steps(method):
    """The first step makes 2 the largest; the masks see it at the next making."""
    grads = [[0, 0, 0, -50.0], *np.zeros((5, 4))]
    trainer = make(method, steps=6, mask_every=3, ramp_until=0.1)  # rises at the second step
    _, seen, end, state = train(trainer, 6, grads=grads)
    small = np.abs(seen) < 1e-9
    assert small[1].tolist() == small[2].tolist() == [True, False, False, True]
    assert state.opt_state.masks["w"][:, 0].tolist() == [False, True, False, True]
    assert (end != 0).tolist() == [False, True, False, True]


def test_masks_are_made_where_the_ramp_ends():
    """With masks of the first step alone, n would never be what it is in the end."""
    trainer = make("sr_ste", ramp="linear", ramp_until=0.5, mask_every=100)
    _, seen, _, _ = train(trainer, 4, grads=np.zeros((4, 4)))
    assert (seen != 0).sum(-1).tolist() == [4, 4, 2, 2]


def published_maxq(w, n, m, left):
    """The mask of the authors' code, of a kernel [O, I, H, W] (their sorts, in numpy)."""
    o, i, h, wide = w.shape
    size = np.abs(w)
    groups = size.transpose(0, 2, 3, 1).reshape(-1, m)
    local = np.ones_like(groups)
    np.put_along_axis(local, np.argsort(groups, 1)[:, : m - n], 0.0, 1)
    local[np.argsort(groups.sum(-1))[: int(left * len(groups))]] = 1.0
    local = local.reshape(o, h, wide, i).transpose(0, 3, 1, 2)

    def important(rows):
        index = int((m - n) / m * rows.shape[1])
        order = np.sort(rows, 1)
        threshold = order[:, index - 1 : index + 1].mean(-1, keepdims=True)
        kept = np.ones_like(rows)
        np.put_along_axis(kept, np.argsort(rows, 1)[:, :index], 0.0, 1)
        return kept / (1 + np.exp(-(rows - threshold) / 0.01))

    of_filter = important(size.reshape(o, -1)).reshape(w.shape)
    at_position = important(size.reshape(o * i, -1).T).T.reshape(w.shape)
    return local, 1 + of_filter + at_position


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("left", [0.0, 0.3])
def test_maxq_is_the_authors(n, left):
    w = 0.05 * np.random.default_rng(0).normal(size=(5, 8, 3, 3))
    layers = (made.layer("w", (3, 3, 8, 5), HWIO, 4, (1, 4)),)
    params, kept = {"w": jnp.asarray(w.transpose(2, 3, 1, 0))}, {"w": np.int32(n)}
    masks = rising_masks(params, layers, kept, jnp.asarray(left))["w"]
    factors = axis_factors(params, layers, kept)["w"]
    local, factor = published_maxq(w, n, 4, left)
    np.testing.assert_array_equal(masks, local.transpose(2, 3, 1, 0) == 1)
    np.testing.assert_allclose(factors, factor.transpose(2, 3, 1, 0), rtol=1e-12)
    np.testing.assert_allclose(
        axis_factors(params, layers, kept, 0.5)["w"], (1 + factors) / 2, rtol=1e-12
    )


def test_maxq_leaves_dense_layers_alone():
    params = {"w": jnp.array(W)[:, None]}
    assert rising_masks(params, LAYERS, {"w": np.int32(4)}, jnp.asarray(0.0))["w"].all()
    assert (axis_factors(params, LAYERS, {"w": np.int32(4)})["w"] == 1).all()


def test_maxq_begins_dense_and_ends_as_the_loss_saw_it():
    """One filter, two of four: -4 and 3 lie above 2.5 by 1.5 and by 0.5, far more than tau."""
    trainer = make("maxq", ramp_until=0.5, sr_ste=0.5)
    held, seen, end, _ = train(trainer, 4)
    np.testing.assert_allclose(seen[0], W)
    np.testing.assert_allclose(seen[3], np.where(KEPT, 2, 0) * held[3], rtol=1e-12)
    np.testing.assert_allclose(end, np.where(KEPT, 2, 0) * held[4], rtol=1e-12)
    np.testing.assert_allclose(  # the gradient as it is, and what is masked decays
        held[4], held[3] - 0.1 * (G + np.where(KEPT, 0, 0.5 * held[3])), rtol=1e-12
    )


def test_the_smallest_without_a_sort():
    x = np.abs(np.random.default_rng(1).normal(size=(3, 7))).round(1)  # with ties
    x[0, :3] = 0
    for k in range(7):
        low, high = two_smallest_from(jnp.asarray(x), k, (1,))
        order = np.sort(x, 1)
        assert high[:, 0].tolist() == order[:, k].tolist()
        assert low[:, 0].tolist() == (order[:, k - 1].tolist() if k else [0, 0, 0])


def step_in_numpy(grads, window_below, earliest, latest, rate=0.1):
    """STEP's algorithms 1 and 2 for four weights; returns the weights and the switch."""
    w, m, v = np.array(W), np.zeros(4), np.zeros(4)
    changes, frozen, switched, seen = [], None, None, []
    for t, g in enumerate(grads, 1):
        m = 0.9 * m + 0.1 * g
        m_hat = m / (1 - 0.9**t)
        if frozen is None:
            new = 0.999 * v + 0.001 * g**2
            changes.append(np.abs(new - v).mean())
            v = new
            v_hat = v / (1 - 0.999**t)
            w = w - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
            calm = np.mean(changes[-1000:]) < window_below and t >= earliest
            if calm or t >= latest:
                frozen, switched = v_hat, t
        else:
            w = w - rate * m_hat / np.sqrt(frozen + 1e-8)
        seen.append(w)
    return np.array(seen), switched


@pytest.mark.parametrize(
    ("size", "switch", "at"),
    [(1.0, (0.25, 0.75), 6), (1e-3, (0.25, 0.75), 2), (1.0, (0.5, 0.5), 4)],
)
def test_step_freezes_the_second_moments(size, switch, at):
    """Small gradients are calm from the start: it switches as early as it may."""
    grads = size * np.random.default_rng(0).normal(size=(8, 4))
    trainer = make("step", steps=8, optimizer="adamw", switch=switch)
    held, seen, end, state = train(trainer, 8, grads=grads)
    expected, switched = step_in_numpy(grads, 1e-8, 8 * switch[0], 8 * switch[1])
    assert switched == at
    np.testing.assert_allclose(held[1:], expected, rtol=1e-9)
    assert (seen != 0).sum(-1).tolist() == [4] * at + [2] * (8 - at)
    assert bool(state.opt_state.inner[0].frozen)
    assert (end != 0).sum() == 2


def test_step_leaves_the_moments_of_what_is_no_kernel():
    grads = np.full((4, 4), 0.5)
    *_, state = train(make("step", optimizer="adamw", switch=(0.25, 0.25)), 4, grads=grads)
    nu = state.opt_state.inner[0].nu
    np.testing.assert_allclose(nu["b"], 0.25 * (1 - 0.999**4), rtol=1e-9)  # all four steps
    np.testing.assert_allclose(nu["w"], 0.25, rtol=1e-9)  # v^ of the first


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_decoupled"])
def test_step_needs_adam(optimizer):
    with pytest.raises(
        InputError, match=r"train\.optimizer: expected 'adamw' .* got '" + optimizer
    ):
        make("step", optimizer=optimizer)


@pytest.mark.parametrize("name", ["decaying_mask", "decaying_structure"])
def test_no_term_to_stand_beside_adam(name):
    with pytest.raises(InputError, match="got 'adamw_decoupled'"):
        make(name, optimizer="adamw_decoupled")


@pytest.mark.parametrize("steps", [(5, 4), (-1, 4)])
def test_a_switch_that_cannot_come(steps):
    with pytest.raises(InputError, match="earliest switch before the latest, got steps"):
        scale_by_step(earliest=steps[0], latest=steps[1])


@pytest.mark.parametrize("name", ["maxq", "step", "decaying_mask"])
def test_what_knows_groups_alone_refuses_another_pattern(name):
    options = OPTIONS | {"optimizer": "adamw" if name == "step" else "sgd"}
    training = Training(LAYERS, 4, lambda step: 0.1, options, make_masks=lambda *_: {})
    with pytest.raises(InputError, match=r"train\.pattern: expected 'n:m' for this train\.method"):
        make_trainer(name, training)

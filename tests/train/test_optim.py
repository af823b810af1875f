"""Schedules and optimizers against numbers by hand and against PyTorch's rule in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax.train import optim

PARAMS = {"w": jnp.array([[1.0], [-4.0], [3.0], [2.0]]), "b": jnp.array([0.5])}
GRADS = {"w": jnp.array([[0.1], [0.2], [-0.3], [0.4]]), "b": jnp.array([1.0])}
MASKS = {"w": jnp.array([[False], [True], [True], [False]])}


@pytest.fixture
def loose_promotion():
    """Optax's own bias correction mixes float and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def train(tx, steps, params=PARAMS, masks=MASKS):
    """Makes some steps with the same gradient; returns the weights after each, as lists."""
    tx = optax.with_extra_args_support(tx)
    state, seen = tx.init(params), []

    @jax.jit
    def step(params, state):
        updates, state = tx.update(GRADS, state, params, masks=masks)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        seen.append(np.asarray(params["w"])[:, 0].tolist())
    return seen


def as_torch(steps, rate, momentum, decay, extra=0.0):
    """SGD as torch.optim.SGD has it: decay in the gradient, buffer = momentum * buffer + grad."""
    w, g = (np.asarray(tree["w"], np.float64)[:, 0] for tree in (PARAMS, GRADS))
    outside = ~np.asarray(MASKS["w"])[:, 0]
    buffer, seen = np.zeros(4), []
    for step in range(steps):
        buffer = momentum * buffer + g + decay * w + extra * outside * w
        w = w - (rate(step) if callable(rate) else rate) * buffer
        seen.append(w.tolist())
    return seen


def test_cosine_starts_at_the_peak_and_ends_at_zero():
    schedule = optim.learning_rate("cosine", 0.4, 8)
    assert values(schedule, [0, 4, 8, 99]) == pytest.approx([0.4, 0.2, 0.0, 0.0])
    assert values(schedule, [2]) == pytest.approx([0.2 * (1 + np.cos(np.pi / 4))])


def test_warmup_then_cosine():
    schedule = optim.learning_rate("cosine", 0.4, 12, warmup=4)
    assert values(schedule, [0, 1, 2, 4, 8, 12]) == pytest.approx([0, 0.1, 0.2, 0.4, 0.2, 0.0])


def test_constant():
    assert values(optim.learning_rate("constant", 0.4, 5), [0, 3, 99]) == pytest.approx([0.4] * 3)
    warm = optim.learning_rate("constant", 0.4, 5, warmup=2)
    assert values(warm, [0, 1, 2, 99]) == pytest.approx([0, 0.2, 0.4, 0.4])


def test_a_warmup_as_long_as_the_training():
    assert values(optim.learning_rate("cosine", 0.4, 4, warmup=4), [0, 2, 3]) == pytest.approx(
        [0, 0.2, 0.3]
    )


def test_schedules_are_traced_without_promotion():
    for name in optim.SCHEDULES:
        schedule = optim.learning_rate(name, 0.4, 12, warmup=4)
        assert float(jax.jit(schedule)(jnp.int32(2))) == pytest.approx(0.2)


def test_penalty_doubles_as_in_the_published_code():
    penalty = optim.doubling(0.1, 30_000, 10_000)
    steps = [0, 29_999, 30_000, 39_999, 40_000, 50_000, 60_000]
    assert values(penalty, steps) == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4, 0.8, 1.6])
    assert float(jax.jit(penalty)(jnp.int32(40_000))) == pytest.approx(0.4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_that_of_torch(momentum):
    tx = optim.dense_optimizer("sgd", 0.1, momentum, 0.25)
    np.testing.assert_allclose(train(tx, 4), as_torch(4, 0.1, momentum, 0.25), rtol=1e-5)


def test_the_rate_scales_the_momentum_as_in_torch():
    schedule = optim.learning_rate("cosine", 0.1, 5)
    tx = optim.dense_optimizer("sgd", schedule, 0.9, 0.0)
    expected = as_torch(4, lambda step: 0.05 * (1 + np.cos(np.pi * step / 5)), 0.9, 0.0)
    np.testing.assert_allclose(train(tx, 4), expected, rtol=1e-5)


def test_first_step_of_sgd_by_hand():
    (after,) = train(optim.dense_optimizer("sgd", 0.5, 0.9, 0.1), 1)
    # w - 0.5 (g + 0.1 w)
    expected = [1 - 0.1, -4 + 0.1, 3 + 0.0, 2 - 0.3]
    assert after == pytest.approx(expected)


@pytest.mark.usefixtures("loose_promotion")
def test_adamw_by_hand():
    # Adam's first step is the sign of the gradient; the decay stands beside it.
    (after,) = train(optim.dense_optimizer("adamw", 0.1, 0.9, 0.5), 1)
    expected = [1 - 0.1 - 0.05, -4 - 0.1 + 0.2, 3 + 0.1 - 0.15, 2 - 0.1 - 0.1]
    assert after == pytest.approx(expected, abs=1e-4)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; nearest: cosine"):
        optim.learning_rate("cosin", 0.1, 5)
    with pytest.raises(ValueError, match="unknown optimizer 'adam'; nearest: adamw"):
        optim.dense_optimizer("adam", 0.1, 0.9, 0.0)

"""Many decays at once against one after another: the n largest of each group sink."""

import numpy as np
import pytest

from domino_jax.allocate.penalty_only import Decays, after, amount_of

RNG = np.random.default_rng(0)
LOGS = -np.sort(-RNG.normal(size=(8, 500)), axis=0)
LOGS[5:, :20] = -np.inf  # zeros
LOGS[2:5, 20:40] = LOGS[2, 20:40]  # ties


def one_by_one(logs, decays):
    for _ in range(decays.times):
        logs[: decays.n] -= decays.amount
        logs = -np.sort(-logs, axis=0)
    return logs


@pytest.mark.parametrize("n", [1, 3, 7, 8])
@pytest.mark.parametrize(("amount", "times"), [(0.05, 1), (0.05, 13), (0.004, 300), (2.0, 5)])
def test_decays_at_once_are_decays_one_by_one(n, amount, times):
    decays = Decays(n, amount, times)
    expected = one_by_one(LOGS.copy(), decays)
    found = after(LOGS, decays, below=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    above = after(LOGS, decays, below=False)
    np.testing.assert_allclose(np.maximum(above, 0), np.maximum(expected, 0), rtol=0, atol=1e-9)
    assert n == 8 or times == 1 or (np.sort(above, axis=0) != np.sort(found, axis=0)).any()


def test_groups_of_more_weights_than_a_byte_counts():
    logs = np.zeros((300, 4))  # two decays of 200: a hundred sink twice
    decays = Decays(200, 0.3, 2)
    found = after(logs, decays, below=True)
    np.testing.assert_allclose(found, one_by_one(logs.copy(), decays), rtol=0, atol=1e-9)


def test_what_grows_keeps_its_place():
    found = after(LOGS, Decays(3, -0.1, 4), below=True)
    np.testing.assert_allclose(found[:3], LOGS[:3] + 0.4)
    assert (found[3:] == LOGS[3:]).all()


def test_the_amount_is_the_logarithm_of_what_a_decay_leaves():
    assert amount_of(0.0) == 0
    assert np.exp(-amount_of(0.25)) == pytest.approx(0.75)
    assert np.exp(-amount_of(-0.5)) == pytest.approx(1.5)
    assert np.exp(-amount_of(3.0)) == pytest.approx(2.0)  # the sign changes
    assert np.isfinite(amount_of(1.0))

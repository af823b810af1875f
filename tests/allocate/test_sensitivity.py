"""The true rise of the loss with one layer pruned; what is interpolated, resumed, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.allocate import sensitivity
from domino_jax.core.errors import InputError
from domino_jax.core.masked import hard_mask
from domino_jax.trace.layers import find_layers

RNG = np.random.default_rng(0)
PARAMS = {
    "stack": jnp.asarray(RNG.normal(size=(2, 8, 8)), jnp.float32),
    "head": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
}
BATCHES = [jnp.asarray(RNG.normal(size=(6, 8)), jnp.float32) for _ in range(3)]
NAMES = ["stack#0", "stack#1", "head"]


def apply(params, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    return x @ params["head"]


def loss(params, batch):
    return jnp.square(apply(params, batch) - apply(PARAMS, batch)).mean() + 1.0


def layers(m=4, candidates=None):
    return find_layers(apply, PARAMS, BATCHES[0][:1], m, candidates=candidates)


def by_hand(name, n, m):
    """Masks one layer alone, each batch by itself."""
    kept = {"stack": np.full(2, m), "head": np.array(m)}
    if name == "head":
        kept["head"] = np.array(n)
    else:
        kept["stack"][int(name[-1])] = n
    masked = hard_mask(PARAMS, layers(m), kept)
    return float(np.mean([loss(masked, batch) for batch in BATCHES]))


def test_every_layer_and_candidate_is_pruned_alone():
    measured = sensitivity.measure(layers(), PARAMS, loss, BATCHES)
    assert list(measured) == NAMES
    for name in NAMES:
        assert sorted(measured[name]) == [1, 2, 4]
        for n, value in measured[name].items():
            assert value == pytest.approx(by_hand(name, n, 4), rel=1e-5), (name, n)
    table = sensitivity.as_table(layers(), measured)
    assert table["head"][4] == 0
    assert table["head"][1] == pytest.approx(by_hand("head", 1, 4) - 1, rel=1e-4)


def test_the_loss_is_traced_once():
    traced = []

    def counting(params, batch):
        traced.append(1)
        return loss(params, batch)

    sensitivity.measure(layers(), PARAMS, counting, BATCHES)
    assert len(traced) == 1


def test_what_is_known_is_not_measured_again():
    seen = []
    whole = sensitivity.measure(
        layers(), PARAMS, loss, BATCHES, report=lambda m: seen.append({k: dict(m[k]) for k in m})
    )
    assert len(seen) == 3 * 2
    again = []
    resumed = sensitivity.measure(
        layers(),
        PARAMS,
        loss,
        BATCHES,
        known=seen[3],
        report=lambda m: again.append(1),
    )
    assert len(again) == 2
    assert resumed == whole


def test_a_grid_is_interpolated_in_log_loss():
    all_n = layers(8, (1, 2, 3, 4, 5, 6, 7, 8))
    measured = sensitivity.measure(all_n, PARAMS, loss, BATCHES, grid=(2, 4))
    assert sorted(measured["head"]) == [1, 2, 4, 8]  # the smallest one is always measured
    table = sensitivity.as_table(all_n, measured)
    row = table["head"]
    assert row[3] == pytest.approx((row[2] * row[4]) ** 0.5)
    assert list(row.values()) == sorted(row.values(), reverse=True)
    assert row[4] > row[5] > row[6] > row[7] > row[8] == 0


def test_a_grid_without_candidates_is_refused():
    with pytest.raises(InputError, match=r"^grid: expected some of .*\[1, 2\] of stack#0, got"):
        sensitivity.measure(layers(), PARAMS, loss, BATCHES, grid=(3, 7))


def test_a_loss_that_breaks_names_the_layer():
    def breaking(params, batch):
        pruned = (params["head"] == 0).any()
        return jnp.where(pruned, jnp.nan, loss(params, batch))

    with pytest.raises(InputError, match="expected a finite loss with head at 1:4, got nan"):
        sensitivity.measure(layers(), PARAMS, breaking, BATCHES)


def test_batches_may_come_one_by_one_and_there_must_be_one():
    table = sensitivity.sensitivity_table(layers(), PARAMS, loss, iter(BATCHES))
    assert table == sensitivity.sensitivity_table(layers(), PARAMS, loss, BATCHES)
    with pytest.raises(InputError, match="at least one calibration batch"):
        sensitivity.sensitivity_table(layers(), PARAMS, loss, [])


def test_a_loss_of_each_example_is_refused():
    def each(params, batch):
        return loss(params, batch)[None]

    with pytest.raises(InputError, match=r"a loss that is one number, got one of the shape \(1,\)"):
        sensitivity.measure(layers(), PARAMS, each, BATCHES)

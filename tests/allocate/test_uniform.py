"""The dense scheme, and the same share for every layer, also where M or the candidates differ."""

import made
import numpy as np
import pytest

from domino_jax.allocate.dense import dense_scheme
from domino_jax.allocate.uniform import uniform_nm, uniform_scheme
from domino_jax.core import costs
from domino_jax.core.canonical import Axes
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))
FOURS, EIGHTS, DENSE = (1, 2, 4), (1, 2, 4, 8), ()


def layer(name, inputs, outputs, candidates, reason=""):
    return made.layer(name, (inputs, outputs), IO, inputs * outputs, candidates, reason)


# 64 + 32 + 16 weights.
NET = (layer("a", 8, 8, EIGHTS), layer("b", 4, 8, FOURS), layer("c", 4, 4, DENSE, "by rule"))


def test_dense_keeps_everything():
    assert dense_scheme(NET) == {"a": NM(8, 8), "b": NM(4, 4)}
    assert costs.total_cost(NET, costs.count_weights, dense_scheme(NET)) == 112
    n_by_path(dense_scheme(NET), NET)


@pytest.mark.parametrize(
    ("share", "a", "b"),
    [
        (0.99, 4, 2),  # 8:8 and 4:4 are dense
        (64 / 112, 4, 2),  # 16 + 32 + 16 weights
        (63 / 112, 2, 1),
        (40 / 112, 2, 1),  # 16 + 16 + 8
        (39 / 112, 1, 1),  # no candidate of b is 1/8 or less
        (32 / 112, 1, 1),  # 16 + 8 + 8
    ],
)
def test_the_largest_share_that_fits(share, a, b):
    assert uniform_scheme(NET, share + 1e-9) == {"a": NM(a, 8), "b": NM(b, 4)}


def test_candidates_of_their_own():
    layers = (layer("a", 16, 8, (1, 2, 4, 8, 16)), layer("b", 16, 8, (6, 16)))
    for share, a, b in ((0.75, 8, 6), (0.43, 6, 6), (0.4, 4, 6), (0.22, 1, 6)):
        found = uniform_scheme(layers, share)
        assert found["b"] == NM(b, 16)
        # The share of b's 6:16 is tried too, but is none of a's.
        assert found["a"] == NM({6: 4}.get(a, a), 16)


def test_equal_candidates_give_equal_levels():
    rng = np.random.default_rng(0)
    layers = tuple(
        layer(f"l{i}", 8 * int(rng.integers(1, 5)), int(rng.integers(1, 9)), EIGHTS)
        for i in range(5)
    )
    dense = costs.total_cost(layers, costs.count_macs)
    for share in (0.9, 0.5, 0.49, 0.25, 0.2, 0.125):
        found = uniform_scheme(layers, share, cost=costs.count_macs)
        (n,) = {nm.n for nm in found.values()}
        assert n == max(n for n in (1, 2, 4) if n / 8 <= share)
        assert costs.total_cost(layers, costs.count_macs, found) <= share * dense


def test_a_cost_that_does_not_rise_with_n():
    slow = {"a": {1: 6, 2: 1, 4: 5, 8: 8}, "b": {1: 2, 2: 2, 4: 4}, "c": 4}
    cost = costs.table_cost(slow, NET)
    assert uniform_scheme(NET, 0.5, cost=cost) == {"a": NM(2, 8), "b": NM(1, 4)}  # 1 + 2 + 4 of 16


def test_out_of_reach():
    with pytest.raises(ValueError, match=r"out of reach: the candidates allow 0\.2858 \(32 of 112"):
        uniform_scheme(NET, 0.28)
    with pytest.raises(ValueError, match="expected a share"):
        uniform_scheme(NET, 1.0)
    crossed = {"a": {1: 1, 2: 8, 4: 8, 8: 8}, "b": {1: 9, 2: 1, 4: 9}, "c": 0}
    with pytest.raises(ValueError, match=r"budget 0\.3 is out of reach of uniform schemes, not of"):
        uniform_scheme(NET, 0.3, cost=costs.table_cost(crossed, NET))


def test_an_nm_is_taken_as_it_is_said():
    # 3 of 8 is no candidate of a; b has another M, and takes no larger share.
    assert uniform_nm(NET, NM(3, 8)) == {"a": NM(3, 8), "b": NM(1, 4)}
    with pytest.raises(ValueError, match="nm: expected N:M of M = 4 or 8, by m and rules, got 8:1"):
        uniform_nm(NET, NM(8, 16))

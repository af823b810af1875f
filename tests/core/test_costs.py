"""Costs of hand-drawn layers: counts, tables, schemes."""

import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from domino_jax.allocate import uniform
from domino_jax.allocate.domino import domino
from domino_jax.core import costs
from domino_jax.core.canonical import Axes
from domino_jax.core.kernels import Kernel, kernels, n_by_path, signatures, stacked
from domino_jax.core.layers import (
    LayerSpec,
    axis_sizes,
    counted,
    group_count,
    grouped,
    inputs_of,
)
from domino_jax.core.masked import make_masks
from domino_jax.core.masks import top_n
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers

DENSE = Axes((), (), (0,), (1,))  # IO
CONV = Axes((), (0, 1), (2,), (3,))  # HWIO
FLAT = Axes((), (), (0, 1, 2), (3,))  # the same kernel under the rule 'flatten'
STACKED = Axes((1,), (), (0,), (2,))  # I, slices, O

FC = made.layer("fc", (8, 3), DENSE, 24, (1, 2, 4))
CONV3 = made.layer("conv", (3, 3, 8, 2), CONV, 1440, (1, 2, 4))
STEM = made.layer("stem", (3, 3, 3, 2), CONV, 540, (), "input size 3 is no multiple of 4")
TABLE = made.layer("embedding", (100, 8), None, 0, (), "only looked up")
NET = (STEM, CONV3, FC, TABLE)
DENSE_WEIGHTS = 54 + 144 + 24


def slices(count=3):
    return [made.layer(f"w#{i}", (4, 2), STACKED, 8, (1, 2, 4)) for i in range(count)]


def test_weights_and_macs_of_whole_groups():
    assert [costs.count_weights(FC, n) for n in (None, 1, 2, 3, 4)] == [24, 6, 12, 18, 24]
    assert [costs.count_macs(CONV3, n) for n in (None, 1, 2, 4)] == [1440, 360, 720, 1440]
    assert group_count(FC) == 6
    assert group_count(CONV3) == 9 * 2 * 2
    assert inputs_of(CONV3) == 8
    # A layer that stays dense keeps all, whatever n is asked for.
    assert costs.count_weights(STEM, 1) == 54
    assert costs.count_macs(STEM, 1) == 540


def test_a_short_last_group_keeps_at_most_what_it_has():
    # 27 inputs of each of 2 filters: 6 groups of 4 and one of 3.
    flat = made.layer("stem", (3, 3, 3, 2), FLAT, 540, (1, 2, 4))
    assert inputs_of(flat) == 27
    assert group_count(flat) == 14
    assert [costs.count_weights(flat, n) for n in (1, 2, 3, 4)] == [14, 28, 42, 54]
    # 10 MACs a weight.
    assert [costs.count_macs(flat, n) for n in (1, 2, 4)] == [140, 280, 540]
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3, 2)), jnp.float32)
    for n in (1, 2, 3, 4):
        assert int(top_n(w, n, 4, FLAT).sum()) == costs.count_weights(flat, n)


def test_macs_of_an_odd_share_are_rounded_up():
    odd = made.layer("odd", (4, 1), DENSE, 5, (1, 2, 4))
    assert [costs.count_macs(odd, n) for n in (1, 2, 4)] == [2, 3, 5]


def test_kernels_gather_the_slices_of_a_stack():
    specs = slices()
    found = kernels([specs[2], FC, specs[0], STEM, specs[1], TABLE])
    assert list(found) == ["w", "fc"]
    assert found["w"] == Kernel(STACKED, 4, tuple(specs))
    assert found["fc"] == Kernel(DENSE, 4, (FC,))
    values = {"w#2": 4, "w#0": 1, "w#1": 2, "fc": 3}
    assert stacked(found["w"], values, 4).tolist() == [1, 2, 4]
    assert stacked(found["fc"], values, 4).shape == ()
    assert stacked(found["fc"], values, 4) == 3
    one = kernels(slices(1))["w"]
    assert stacked(one, {"w#0": 2}, 4).tolist() == [2]
    assert [costs.count_weights(spec, 1) for spec in specs] == [2, 2, 2]
    assert costs.total_cost(specs, costs.count_weights) == 24


def test_totals_leave_tables_out_and_count_dense_layers():
    assert counted(NET) == [STEM, CONV3, FC]
    assert grouped(NET) == [CONV3, FC]
    assert costs.total_cost(NET, costs.count_weights) == DENSE_WEIGHTS
    assert costs.total_cost(NET, costs.count_macs) == 540 + 1440 + 24
    scheme = {"conv": NM(1, 4), "fc": NM(2, 4)}
    assert costs.total_cost(NET, costs.count_weights, scheme) == 54 + 36 + 12
    assert costs.total_cost(NET, costs.count_macs, scheme) == 540 + 360 + 12
    with pytest.raises(ValueError, match="fc: expected its N:M in the scheme, got none"):
        costs.total_cost(NET, costs.count_weights, {"conv": NM(1, 4)})
    assert costs.total_cost(NET, costs.count_weights, scheme | {"stem": NM(4, 4)}) == 54 + 36 + 12
    assert costs.lowest_cost(NET, costs.count_weights) == 54 + 36 + 6
    assert costs.lowest_cost(NET, costs.count_macs) == 540 + 360 + 6


def test_totals_are_exact_beyond_int32_and_float64():
    huge = made.layer("huge", (4, 2**20), DENSE, 2**60 + 4, (1, 2, 4))
    one = made.layer("one", (4, 1), DENSE, 4, (1, 2, 4))
    assert costs.total_cost([huge, one], costs.count_macs) == 2**60 + 8
    assert (
        costs.total_cost([huge, one], costs.count_macs, {"huge": NM(1, 4), "one": NM(4, 4)})
        == 2**58 + 5
    )
    assert costs.lowest_cost([huge, one], costs.count_macs) == 2**58 + 2


def test_floats_are_read_as_the_decimals_they_are_written_as():
    assert costs.as_fraction(0.2) == Fraction(1, 5)
    assert costs.as_fraction(0.1) + costs.as_fraction(0.2) == costs.as_fraction(0.3)
    assert costs.as_fraction(1) == 1


def test_uniform():
    assert uniform.uniform(NET, 2) == {"conv": NM(2, 4), "fc": NM(2, 4)}
    assert list(uniform.uniform(slices(2), 1)) == ["w#0", "w#1"]
    with pytest.raises(ValueError, match="got 5:4"):
        uniform.uniform(NET, 5)


def test_levels():
    found = n_by_path({"fc": NM(1, 4), "conv": NM(4, 4)}, NET)
    assert {path: (n.shape, n.tolist()) for path, n in found.items()} == {
        "conv": ((), 4),
        "fc": ((), 1),
    }
    assert {n.dtype for n in found.values()} == {np.dtype(np.int32)}
    stacked = {"w#2": NM(4, 4), "w#0": NM(1, 4), "w#1": NM(2, 4)}
    assert n_by_path(stacked, slices())["w"].tolist() == [1, 2, 4]


def test_levels_take_a_dense_entry_of_a_layer_that_stays_dense():
    scheme = uniform.uniform(NET, 2)
    for entry in (NM(4, 4), NM(16, 16)):  # the published schemes name the stem so
        found = n_by_path(scheme | {"stem": entry}, NET)
        assert found == n_by_path(scheme, NET)
    with pytest.raises(ValueError, match=r"stem: expected N == M .* got 2:4: .* \(input size 3"):
        n_by_path(scheme | {"stem": NM(2, 4)}, NET)


def test_levels_of_a_stack_with_a_slice_that_is_not_used():
    def apply(params, x):
        return x @ params["w"][0] @ params["w"][2]

    params = {"w": jnp.arange(48.0).reshape(3, 4, 4)}
    layers = find_layers(apply, params, jnp.zeros((1, 4)), 4)
    assert [spec.reason for spec in layers] == [None, "not used", None]
    assert n_by_path({"w#0": NM(1, 4), "w#2": NM(2, 4)}, layers)["w"].tolist() == [1, 4, 2]
    search = domino(layers, 0.9)
    state = search.init(params)
    assert state.n["w"].tolist() == [4, 4, 4]
    assert state.pace["w"][1] == 0
    mask = make_masks(params, layers, {"w": jnp.array([1, 4, 2])})["w"]
    assert mask.sum((1, 2)).tolist() == [4, 16, 8]
    assert search.update(state, params).n["w"].shape == (3,)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"fc": NM(1, 4)}, r"it lacks 'conv' \(1 in all\)$"),
        ({"fc": NM(1, 4), "conv": NM(2, 8)}, r"conv: expected M = 4 .* got 2:8"),
        ({"fc": NM(1, 4), "conv": NM(9, 16)}, r"conv: expected M = 4 .* got 9:16"),
        ({"fc": NM(1, 4), "conv": "2:4"}, r"conv: expected NM\(n, m\) .* got '2:4'"),
        ({"fc": 1, "conv": NM(2, 4)}, r"fc: expected NM\(n, m\) .* got 1"),
        ({"fc": NM(1, 4), "conw": NM(2, 4)}, "lacks 'conv' .* has no 'conw'"),
        ({"fc": NM(1, 4), "conv": NM(1, 4), "embedding": NM(4, 4)}, "has no 'embedding'"),
    ],
)
def test_levels_of_another_network_are_refused(scheme, message):
    with pytest.raises(ValueError, match=message):
        n_by_path(scheme, NET)


def test_table_of_every_candidate():
    table = {"conv": {"1": 0.1, "2": 0.2, "4": 0.7, "3": 9}, "fc": {1: 1, 2: 2, 4: 3, 8: 9}}
    cost = costs.table_cost(table, NET)
    assert cost(CONV3, 1) == Fraction(1, 10)
    assert cost(CONV3, None) == cost(CONV3, 4) == Fraction(7, 10)
    assert cost(STEM, None) == 0  # absent, and it stays dense
    assert costs.total_cost(NET, cost) == Fraction(37, 10)
    assert costs.total_cost(NET, cost, {"conv": NM(1, 4), "fc": NM(2, 4)}) == Fraction(21, 10)
    assert costs.lowest_cost(NET, cost) == Fraction(11, 10)


def test_table_of_dense_numbers_scales_with_the_share_kept():
    cost = costs.table_cost({"conv": 0.3, "fc": 2, "stem": 5}, NET)
    assert [cost(CONV3, n) for n in (1, 2, 4, None)] == [
        Fraction(3, 40),
        Fraction(3, 20),
        Fraction(3, 10),
        Fraction(3, 10),
    ]
    assert cost(STEM, None) == cost(STEM, 4) == 5
    assert costs.lowest_cost(NET, cost) == 5 + Fraction(3, 40) + Fraction(1, 2)


def test_table_of_a_dense_layer_takes_its_largest_n():
    cost = costs.table_cost({"conv": 1, "fc": 1, "stem": {"16": 3, "4": 2}}, NET)
    assert cost(STEM, None) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"fc": 1}, r"no entry for conv; it has 1 entries"),
        ({"fc": 1, "conv": {"1": 1, "4": 2}}, r"conv: no cost for n = \[2\]; has \[1, 4\]"),
        ({"fc": 1, "conv": 1, "stem": {}}, r"stem: no cost for n = \[\]"),
        ({"fc": 1, "conv/kernel": 1}, "unknown layer .*'conv/kernel'; nearest: conv"),
        ({"fc": 1, "conv": 1, "embedding": 1}, "unknown layer .*'embedding'"),
        ({"fc": 1, "conv": -0.5}, r"conv: .* 0 or more, got -0\.5"),
        ({"fc": 1, "conv": {"1": -1, "2": 1, "4": 1}}, "conv: .* 0 or more, got -1"),
        ({"fc": 1, "conv": "1"}, "conv: .*got '1'"),
        ({"fc": 1, "conv": None}, "conv: .*got None"),
        ({"fc": 1, "conv": [1, 2, 4]}, r"conv: .*got \[1, 2, 4\]"),
        ({"fc": 1, "conv": True}, "conv: .*got True"),
        ({"fc": 1, "conv": float("nan")}, "conv: .*got nan"),
        ({"fc": 1, "conv": float("inf")}, "conv: .*got inf"),
        ({"fc": 1, "conv": {"1": "1", "2": 1, "4": 1}}, "conv: .*got '1'"),
        ({"fc": 1, "conv": {"1": 1, "2": None, "4": 1}}, "conv: .*got None"),
        ({"fc": 0, "conv": 0}, "the dense network costs 0"),
        ({"fc": 1, "conv": {"1": 1, "2": 1, "dense": 1}}, "conv: .*got n = 'dense'"),
    ],
)
def test_wrong_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        costs.table_cost(table, NET)


def test_table_file(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"conv": {"1": 0.1, "2": 0.2, "4": 0.7}, "fc": 1}))
    assert costs.total_cost(NET, costs.read_table(str(path), NET)) == Fraction(17, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"objective: expected 'params', 'macs' or .*table\.json: .*No such file"),
        ("{'conv': 1}", r"table\.json: broken JSON: Expecting"),
        ("[1, 2]", r"table\.json: expected an object .*got a list"),
        ('{"conv": NaN, "fc": 1}', "conv: .*got nan"),
    ],
)
def test_broken_table_files_are_refused(tmp_path, text, message):
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        costs.read_table(str(path), NET)


def test_signatures():
    attention = made.layer("out", (2, 8, 6), Axes((), (), (0, 1), (2,)), 96, (1, 2, 4))
    turned = made.layer("turned", (6, 8), Axes((), (), (1,), (0,)), 48, (1, 2, 4))
    assert signatures([*NET, attention, turned, *slices(2)]) == [
        ("stem", 3, 2, (3, 3)),
        ("conv", 8, 2, (3, 3)),
        ("fc", 8, 3, ()),
        ("out", 16, 6, ()),
        ("turned", 8, 6, ()),
        ("w#0", 4, 2, ()),
        ("w#1", 4, 2, ()),
    ]


def test_a_traced_network_with_its_stem_dense_and_flattened():
    def apply(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["stem"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.mean((1, 2)) @ params["head"]

    params = {"stem": jnp.zeros((3, 3, 3, 8)), "head": jnp.zeros((8, 4))}
    inputs = jnp.zeros((1, 5, 5, 3))
    dense = find_layers(apply, params, inputs, 4)
    assert costs.total_cost(dense, costs.count_macs) == 25 * 216 + 32
    assert costs.lowest_cost(dense, costs.count_weights) == 216 + 8
    assert signatures(dense) == [("stem", 3, 8, (3, 3)), ("head", 8, 4, ())]
    flat = find_layers(apply, params, inputs, 4, [("stem", "flatten")])
    assert costs.total_cost(flat, costs.count_macs) == costs.total_cost(dense, costs.count_macs)
    assert costs.lowest_cost(flat, costs.count_weights) == 7 * 8 + 8


def test_a_budget_that_is_one_needs_no_other_cost():
    layers = (made.layer("a", (8, 4), Axes((), (), (0,), (1,)), 32, (1, 2, 4)),)
    budget = costs.budget_of(layers, 0.5)
    assert costs.budget_of(layers, budget) is budget
    with pytest.raises(ValueError, match="got a Budget, which has one"):
        costs.budget_of(layers, budget, cost=costs.count_macs)


def test_a_layer_of_no_product_has_no_sizes_along_axes():
    layer = LayerSpec("a", (8, 4), None, 0, None, "not used", 1)
    with pytest.raises(ValueError, match="a: no convolution or matrix product, so no axis has"):
        axis_sizes(layer, (0,))

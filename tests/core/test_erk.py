import json
import math
from pathlib import Path

import pytest

from domino_jax.core.erk import erk

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "erk_and_macs.json").read_text())
# The network of the reference search trace, OIHW and OI.
TRACE_SHAPES = {
    "SparseConv0": (16, 8, 3, 3),
    "SparseConv1": (32, 16, 3, 3),
    "SparseConv2": (64, 32, 1, 1),
    "SparseConv3": (64, 64, 3, 3),
    "Linear0": (10, 64),
}
TRACE_ERK = {
    "SparseConv0": 0.0,
    "SparseConv1": 0.5332446808510638,
    "SparseConv2": 0.0,
    "SparseConv3": 0.855219414893617,
    "Linear0": 0.0,
}


def test_two_equal_layers_share_alike() -> None:
    assert erk({"a": (4, 4), "b": (4, 4)}, 0.5) == {"a": 0.5, "b": 0.5}


def test_by_hand() -> None:
    # raw 4/4 and 16/64; kept 2 + 32; ε = 34/20 makes a dense; then 30 of b's 64 are left.
    assert erk({"b": (8, 8), "a": (2, 2)}, 0.5) == {"b": 1 - 30 / 64, "a": 0.0}


def test_ties_become_dense_together() -> None:
    # raw 1, 1 and 1/2; kept 3 + 3 + 12, ε = 18/16 makes a and b dense; 10 of c's 16 are left.
    found = erk({"a": (2, 2), "b": (2, 2), "c": (4, 4)}, 0.25)
    assert found == {"a": 0.0, "b": 0.0, "c": 1 - 10 / 16}
    # Kept 2 + 2 + 8: ε = 12/16 makes none dense.
    assert erk({"a": (2, 2), "b": (2, 2), "c": (4, 4)}, 0.5) == {
        "a": 1 - 12 / 16,
        "b": 1 - 12 / 16,
        "c": 1 - 8 * 12 / (16 * 16),
    }


def test_zeros_are_rounded_down_for_each_layer() -> None:
    # ⌊0.5 · 3⌋ = 1 zero in each layer of three, 2 of 3 kept: not half.
    assert erk({"a": (3, 1), "b": (3, 1)}, 0.5) == {"a": pytest.approx(1 / 3), "b": 1 - 4 / 6}


def test_fixed_layers_are_dense_and_the_rest_pays() -> None:
    shapes = {"stem": (4, 4), "a": (8, 8), "b": (8, 8)}
    found = erk(shapes, 0.5, fixed_dense=["stem"])
    assert found == {"stem": 0.0, "a": 72 / 128, "b": 72 / 128}


def test_axis_order_does_not_matter_and_names_keep_their_order() -> None:
    hwio = {name: (*shape[2:], shape[1], shape[0]) for name, shape in TRACE_SHAPES.items()}
    assert erk(hwio, 0.75) == erk(TRACE_SHAPES, 0.75)
    assert list(erk(hwio, 0.75)) == list(TRACE_SHAPES)


def test_sparsity_zero_is_dense() -> None:
    assert erk(TRACE_SHAPES, 0.0) == dict.fromkeys(TRACE_SHAPES, 0.0)
    assert erk({"a": (4, 4)}, 0.0, fixed_dense=["a"]) == {"a": 0.0}


def test_dense_layers_follow_one_another() -> None:
    # raw 1, 2/5 and 1/5; kept 2 + 13 + 50, ε = 65/34 makes a dense, then 61/30 none.
    shapes = {"a": (2, 2), "b": (5, 5), "c": (10, 10)}
    assert erk(shapes, 0.5) == {
        "a": 0.0,
        "b": pytest.approx(1 - 2 / 5 * 61 / 30),
        "c": pytest.approx(1 - 1 / 5 * 61 / 30),
    }
    # Kept 3 + 16 + 64, ε = 83/34: only a is above 1; then ε = 79/30 and b is, too; 54 are left.
    assert erk(shapes, 0.365) == {"a": 0.0, "b": 0.0, "c": pytest.approx(1 - 54 / 100)}


def test_reference_search_trace() -> None:
    found = erk(TRACE_SHAPES, 0.75)
    assert found == pytest.approx(TRACE_ERK, abs=1e-12)
    assert found["SparseConv0"] == found["SparseConv2"] == found["Linear0"] == 0.0


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
@pytest.mark.parametrize("sparsity", ["0.8", "0.875"])
def test_reference_networks(network: str, sparsity: str) -> None:
    shapes = {name: tuple(shape) for name, shape in REFERENCE[network]["shapes"].items()}
    expected = REFERENCE[network]["erk"][sparsity]
    found = erk(shapes, float(sparsity))
    assert list(found) == list(expected)
    assert max(abs(found[name] - expected[name]) for name in expected) < 1e-12


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("fixed", [(), ("SparseConv2",)])
def test_kept_weights_add_up(sparsity: float, fixed: tuple[str, ...]) -> None:
    found = erk(TRACE_SHAPES, sparsity, fixed_dense=fixed)
    sizes = {name: math.prod(shape) for name, shape in TRACE_SHAPES.items()}
    zeros = sum(found[name] * size for name, size in sizes.items())
    assert zeros == pytest.approx(sum(math.floor(sparsity * size) for size in sizes.values()))
    assert all(0 <= value < 1 for value in found.values())
    free = [name for name in sizes if found[name] > 0]
    ratios = [(1 - found[n]) * sizes[n] / sum(TRACE_SHAPES[n]) for n in free]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


@pytest.mark.parametrize(
    ("shapes", "sparsity", "fixed", "text"),
    [
        ({}, 0.5, (), "no layer"),
        ({"a": ()}, 0.5, (), "'a'.*shape \\(\\)"),
        ({"a": (3, 0)}, 0.5, (), "'a'.*\\(3, 0\\)"),
        ({"a": (3, 4)}, 1.0, (), "below 1, got 1.0"),
        ({"a": (3, 4)}, -0.1, (), "got -0.1"),
        ({"a": (3, 4)}, float("nan"), (), "got nan"),
        ({"a": (3, 4)}, 0.5, ("b",), "'b'"),
        ({"a": (4, 4)}, 0.5, ("a",), "of 16 weights 8 are kept.*have 16 \\(a\\)"),
        ({"a": (8, 8), "b": (2, 2)}, 0.9, ("a",), "have 64 \\(a\\)"),
        ({"a": (2, 2), "b": (2, 2)}, 0.5, ("a",), "cannot be reached"),
    ],
)
def test_refused(shapes: dict, sparsity: float, fixed: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        erk(shapes, sparsity, fixed_dense=fixed)
    assert "\n" not in str(caught.value)

from typing import Any, NamedTuple

import numpy as np
import pytest

from domino_jax.core import paths
from domino_jax.core.errors import InputError


class Pair(NamedTuple):
    count: Any
    trees: Any


TREE = {"layer1": [{"conv1": {"kernel": 1}}, {"conv1": {"kernel": 2}}], "fc": {"bias": 3}}
PATHS = ["fc/bias", "layer1/0/conv1/kernel", "layer1/1/conv1/kernel"]


def test_paths_of_nested_containers() -> None:
    assert paths.leaves_by_path(TREE) == dict(zip(PATHS, [3, 1, 2], strict=True))
    state = Pair(count=0, trees=({7: 1.0, 30: 2.0}, None, ()))
    assert paths.leaves_by_path(state) == {"count": 0, "trees/0/7": 1.0, "trees/0/30": 2.0}


def test_order_is_that_of_the_pytree() -> None:
    assert list(paths.leaves_by_path({"b": 1, "a": 2, "c": 3})) == ["a", "b", "c"]


def test_a_single_leaf_has_the_empty_path() -> None:
    assert paths.leaves_by_path(5) == {"": 5}


def test_replace_leaves() -> None:
    new = paths.replace_leaves(TREE, {"layer1/1/conv1/kernel": 9})
    assert new == {
        "layer1": [{"conv1": {"kernel": 1}}, {"conv1": {"kernel": 9}}],
        "fc": {"bias": 3},
    }
    assert TREE["layer1"][1]["conv1"]["kernel"] == 2
    assert isinstance(paths.replace_leaves(Pair(1, {"a": 2}), {"trees/a": 0}), Pair)


def test_replace_takes_a_leaf_as_it_is() -> None:
    array = np.zeros(3)
    assert paths.replace_leaves({"a": 1}, {"a": array})["a"] is array


def test_replace_refuses_an_unknown_path_and_names_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown parameter 'fc/bios'; nearest: fc/bias"):
        paths.replace_leaves(TREE, {"fc/bios": 0})


def test_require_known() -> None:
    paths.require_known(["a"], ["a", "b"], what="model")
    paths.require_known([], [], what="model")
    with pytest.raises(ValueError, match="unknown model 'resnet81'; nearest: resnet18"):
        paths.require_known(["resnet18", "resnet81"], ["vit", "resnet18"], what="model")
    with pytest.raises(ValueError, match="unknown model 'q'; nearest: x, y"):
        paths.require_known(["q"], ["x", "y"], what="model")
    with pytest.raises(ValueError, match="unknown model 'q'; nearest: none"):
        paths.require_known(["q"], [], what="model")


def test_first_match_wins() -> None:
    rules = [("^layer1/0", "first"), ("kernel$", "second"), ("", "all")]
    assert paths.first_match(rules, "layer1/0/conv1/kernel") == "first"
    assert paths.first_match(rules, "layer1/1/conv1/kernel") == "second"
    assert paths.first_match(rules, "fc/bias") == "all"


def test_first_match_without_a_match() -> None:
    assert paths.first_match([("x", 1)], "abc") is None
    assert paths.first_match([("x", 1)], "abc", default=2) == 2
    assert paths.first_match([("a", None), ("b", 1)], "abc", default=2) is None


def test_require_used() -> None:
    paths.require_used([("conv1", 1), ("bias$", 2)], iter(PATHS))
    paths.require_used([], PATHS)
    with pytest.raises(ValueError, match=r"rule 'conv2' matches no layer; the layers are fc/bias"):
        paths.require_used([("conv1", 1), ("conv2", 2)], PATHS)
    with pytest.raises(ValueError, match=r"a, a, a, a, a, …"):
        paths.require_used([("z", 1)], ["a"] * 6)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 20_000])
def test_require_used_refuses_a_broken_regex(pattern) -> None:
    with pytest.raises(InputError, match=r"rule '.*' is not a regular expression"):
        paths.require_used([(pattern, 1)], PATHS)

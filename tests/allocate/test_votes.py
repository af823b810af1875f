"""The count of a vote where weights are split: the same numbers, by one small sum."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from made import layer

from domino_jax.allocate.domino import domino
from domino_jax.allocate.votes import short_counter
from domino_jax.core.canonical import Axes
from domino_jax.train.mesh import make_mesh

IO = Axes((), (), (0,), (1,))
STACKED = Axes((0,), (), (1,), (2,))


@pytest.mark.parametrize(
    "specs",
    [
        {"a": PartitionSpec(None, "model"), "s": PartitionSpec(None, None, "model")},
        {"a": PartitionSpec("model"), "s": PartitionSpec()},
        {"a": PartitionSpec("data"), "s": PartitionSpec(None, "model")},  # two mesh axes
        {"a": PartitionSpec(("data", "model")), "s": PartitionSpec("model")},  # not ours
    ],
)
@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_counts_are_those_of_one_device(specs, sizes):
    rng = np.random.default_rng(0)
    params = {
        "a": np.float32(rng.normal(size=(16, 6))),
        "s": np.float32(rng.normal(size=(2, 8, 4))),
    }
    layers = (
        layer("a", (16, 6), IO, 1, (1, 2, 4)),
        *(layer(f"s#{i}", (8, 4), STACKED, 1, (1, 2, 4)) for i in range(2)),
    )
    state = domino(layers, 0.5).init(params)
    n = {"a": np.int32(3), "s": np.int32([2, 3])}
    params = {name: w * rng.uniform(0.5, 1, w.shape).astype("f") for name, w in params.items()}
    count = short_counter(layers)
    expected = count(params, n, state.threshold)
    mesh = make_mesh(*sizes)
    split = {name: jax.device_put(params[name], NamedSharding(mesh, specs[name])) for name in specs}
    assert count(split, n, state.threshold).tolist() == expected.tolist()
    assert 0 < expected[0] < 24


EIGHT = """
import jax, jax.numpy as jnp
from made import layer
from domino_jax.allocate import votes
from domino_jax.core.masked import make_masks
from domino_jax.core.canonical import Axes
from domino_jax.train.mesh import make_mesh
from domino_jax.train.placement import kept, place, placement_of

axes = {"a": Axes((), (), (0,), (1,)), "b": Axes((), (), (1,), (0,))}
axes["c"] = Axes((), (0, 1), (2,), (3,))
sizes = {"a": (128, 64), "b": (64, 128), "c": (3, 3, 64, 12)}
layers = tuple(layer(name, sizes[name], axes[name], 1, (1, 2, 4)) for name in sizes)
params = {name: jnp.ones(size) for name, size in sizes.items()}
n = {name: jnp.int32(2) for name in sizes}
placement = placement_of(make_mesh(2, 4), layers, params)
assert len(placement.split) == 6
params = place(placement, params)
mask = jax.jit(lambda p, n: kept(placement, make_masks(p, layers, n)))
print(mask.lower(params, n).compile().as_text())
print("VOTE")
from domino_jax.allocate.domino import _thresholds
thresholds = place(placement, {"threshold": _thresholds(layers, params, dict.fromkeys(sizes, 4))})
mesh, splits = votes._splits(layers, params)
vote = votes._over_devices(layers, mesh, splits)
print(vote.lower(params, n, thresholds["threshold"]).compile().as_text())
"""
COLLECTIVE = re.compile(r"= \S+ (all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)")


def test_masks_need_no_collective_and_a_vote_one():
    """Read from the compiled programs of eight devices, two by four."""
    run = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
        | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    mask, vote = run.stdout.split("VOTE")
    assert COLLECTIVE.findall(mask) == []
    assert COLLECTIVE.findall(vote) == ["all-reduce"]
    assert "s32[3]" in vote

"""Round trips, steps, and processes that are stopped or several."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from domino_jax.run import checkpoint

DTYPES = ["bfloat16", "float16", "float32", "float64", "int8", "int32", "int64", "uint32", "bool"]


class State(NamedTuple):
    step: Any
    params: Any
    stats: Any
    opt: Any
    search: Any


def state() -> State:
    """Makes a training state of every kind of container and leaf that the loop uses."""
    params = {"conv": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "fc": [jnp.ones(2), jnp.zeros(3)]}
    transform = optax.chain(optax.sgd(0.1, momentum=0.9), optax.add_decayed_weights(1e-4))
    search = {7: jnp.array(True), 30: (jnp.zeros((0, 3)), None, {"a/b": jnp.int32(4)})}
    return State(np.int64(2**40), params, {"mean": jnp.ones(3)}, transform.init(params), search)


def zeros_like(tree: Any) -> Any:
    """Makes a template with other values and leaves of the same types."""

    def zero(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return jnp.zeros_like(leaf)
        return np.zeros_like(leaf) if isinstance(leaf, np.ndarray) else type(leaf)(0)

    return jax.tree.map(zero, tree)


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def random_bits(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws any bit pattern of a dtype: negative zeros, subnormal numbers and NaN included."""
    kind = jnp.dtype(dtype)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize), np.uint8)
    return raw.view(kind).reshape(shape)


def test_round_trip_of_a_state(tmp_path: Path) -> None:
    saved = state()
    checkpoint.save(tmp_path, 5, saved)
    restored = checkpoint.restore(tmp_path, zeros_like(saved))
    assert_same(restored, saved)
    assert isinstance(restored, State)
    assert restored.opt[0][0].trace["fc"][1].shape == (3,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_numpy_arrays(tmp_path: Path, dtype: str) -> None:
    tree = {
        "a": random_bits(dtype, (64, 3)),
        "empty": np.zeros((2, 0), dtype),
        "s": np.ones((), dtype),
    }
    checkpoint.save(tmp_path, 0, tree)
    assert_same(checkpoint.restore(tmp_path, zeros_like(tree)), tree)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int32", "uint32", "bool"])
def test_bits_of_jax_arrays(tmp_path: Path, dtype: str) -> None:
    tree = {"a": jnp.asarray(random_bits(dtype, (64, 3))), "empty": jnp.zeros((2, 0), dtype)}
    checkpoint.save(tmp_path, 0, tree)
    shapes = jax.eval_shape(lambda: tree)
    for template in (zeros_like(tree), shapes):
        restored = checkpoint.restore(tmp_path, template)
        assert_same(restored, tree)
        assert not restored["a"].committed


def test_python_numbers_and_numpy_scalars(tmp_path: Path) -> None:
    tree = {"b": True, "i": -3, "f": 0.1, "n": np.int64(2**62), "h": np.float32(0.5)}
    checkpoint.save(tmp_path, 0, tree)
    restored = checkpoint.restore(tmp_path, zeros_like(tree))
    assert restored == tree
    assert [type(x) for x in restored.values()] == [type(tree[key]) for key in restored]
    assert checkpoint.restore(tmp_path, tree | {"i": np.int64(0)})["i"] == np.int64(-3)


def test_restored_arrays_can_be_donated_and_written(tmp_path: Path) -> None:
    tree = {"a": jnp.arange(70_000.0), "n": np.arange(3)}
    checkpoint.save(tmp_path, 0, tree)
    restored = checkpoint.restore(tmp_path, tree)
    restored["n"][0] = 7
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(restored["a"])
    assert doubled[3] == 6
    assert_same(checkpoint.restore(tmp_path, tree), tree)


def sharding(*axes: str | None) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec(*axes))


@pytest.mark.parametrize("source", [(), ("data",), (None, "data")])
@pytest.mark.parametrize("target", [(), ("data",), (None, "data")])
def test_another_sharding(tmp_path: Path, source: tuple, target: tuple) -> None:
    value = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    checkpoint.save(tmp_path, 0, {"a": jax.device_put(value, sharding(*source))})
    wanted = sharding(*target)
    blank = jax.device_put(np.zeros_like(value), wanted)
    for like in (blank, jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=wanted)):
        restored = checkpoint.restore(tmp_path, {"a": like})["a"]
        assert restored.sharding == wanted
        assert restored.addressable_shards[1].data.shape == blank.addressable_shards[1].data.shape
        np.testing.assert_array_equal(restored, value)


def test_steps_and_keep(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert checkpoint.latest(folder) is None
    for step in (0, 9, 10, 100):
        checkpoint.save(folder, step, {"a": np.int64(step)}, keep=3)
    assert checkpoint.steps(folder) == [9, 10, 100]
    assert checkpoint.latest(folder) == 100
    assert checkpoint.restore(folder, {"a": np.int64(0)}, step=9) == {"a": 9}
    assert checkpoint.restore(folder, {"a": np.int64(0)}) == {"a": 100}
    checkpoint.save(folder, 100, {"a": np.int64(-1)}, keep=1)
    assert checkpoint.restore(folder, {"a": np.int64(0)}) == {"a": -1}
    assert [path.name for path in folder.iterdir()] == ["100"]


def test_other_files_are_no_steps(tmp_path: Path) -> None:
    (tmp_path / "12").write_text("a file")
    for name in ("tensorboard", "007", "-1", "3.new", "4.old"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == []
    (tmp_path / "notes.old").write_text("mine")
    checkpoint.save(tmp_path / "13", 0, {"a": 1})
    checkpoint.save(tmp_path, 14, {"a": 1}, keep=2)
    names = ["-1", "007", "12", "13", "14", "notes.old", "tensorboard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save("run", 1, {"a": np.int64(1)})
    assert checkpoint.restore("run", {"a": np.int64(0)}) == {"a": 1}


def test_restore_parts(tmp_path: Path) -> None:
    saved = state()
    checkpoint.save(tmp_path, 1, saved)
    checkpoint.save(tmp_path, 2, saved._replace(params=jax.tree.map(lambda x: -x, saved.params)))
    template = {"params": zeros_like(saved.params), "stats": zeros_like(saved.stats)}
    for path, sign in ((tmp_path, -1), (tmp_path / "1", 1), (tmp_path / "2", -1)):
        parts = checkpoint.restore_parts(path, template)
        assert_same(parts["params"], jax.tree.map(lambda x, s=sign: s * x, saved.params))
        assert_same(parts["stats"], saved.stats)
    with pytest.raises(ValueError, match="unexpected 'params/fc/0'"):
        checkpoint.restore_parts(tmp_path, {"params": {"conv": template["params"]["conv"]}})
    with pytest.raises(ValueError, match="lacks 'weights'"):
        checkpoint.restore_parts(tmp_path, {"weights": jnp.zeros(3)})


def test_parts_without_leaves(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 0, {"params": {"a": jnp.ones(2)}, "stats": {}, "opt": jnp.ones(1)})
    parts = checkpoint.restore_parts(tmp_path, {"params": {"a": jnp.zeros(2)}, "stats": {}})
    assert list(parts) == ["params", "stats"]
    assert parts["stats"] == {}
    assert list(parts["params"]) == ["a"]


@pytest.mark.parametrize("again", [False, True])
def test_stopped_before_the_rename_it_ends_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    checkpoint.save(tmp_path, 1, {"a": 1})
    step = 1 if again else 2

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_commit", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, step, {"a": 2})
    assert checkpoint.restore(tmp_path, {"a": 0}) == {"a": 1}
    checkpoint.tidy(tmp_path)
    assert checkpoint.restore(tmp_path, {"a": 0}, step) == {"a": 2}
    checkpoint.save(tmp_path, 3, {"a": 3}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{step}", "3"]


def test_stopped_while_removing_an_old_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, {"a": 1})

    def stop(path: Path) -> None:
        next(file for file in path.rglob("*") if file.is_file()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"a": 2}, keep=1)
    assert checkpoint.steps(tmp_path) == [2]
    checkpoint.save(tmp_path, 3, {"a": 3}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


SAVER = """
import sys
import numpy as np
from domino_jax.run import checkpoint
first = (checkpoint.latest(sys.argv[1]) or 0) + 1
for step in range(first, first + 100_000):
    tree = {f"l{i}": np.full((50,), step + i, np.float32) for i in range(30)}
    checkpoint.save(sys.argv[1], step, tree, keep=2)
    print(step, flush=True)
"""


def test_a_killed_process_leaves_whole_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(0)
    template = {f"l{i}": np.zeros(50, np.float32) for i in range(30)}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            printed = [int(child.stdout.readline()) for _ in range(3)][-1]
            time.sleep(rng.uniform(0, 0.1))
            child.kill()
            printed = int(([printed, *child.stdout.read().split()])[-1])
        last = checkpoint.latest(tmp_path)
        assert last in (printed, printed + 1)
        for step in checkpoint.steps(tmp_path):
            restored = checkpoint.restore(tmp_path, template, step)
            assert all((restored[f"l{i}"] == step + i).all() for i in range(30))


QUIET = """
import sys
import threading
import jax.numpy as jnp
from domino_jax.run import checkpoint
assert "orbax.checkpoint" not in sys.modules
tree = {"a": jnp.ones(3), "z": jnp.zeros(0)}
checkpoint.save(sys.argv[1], 0, tree)
checkpoint.restore(sys.argv[1], tree)
assert threading.active_count() == 1, threading.enumerate()
"""


def test_no_noise_no_threads_and_a_lazy_import(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", QUIET, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


TWO = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from domino_jax.run import checkpoint
def put(value, *axes):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec(*axes))
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])
value = np.arange(8, dtype=np.float32)
for step in (1, 2, 2, 3):
    tree = {"all": put(value), "split": put(value * step, "data"), "n": np.int64(step)}
    checkpoint.save(sys.argv[1], step, tree, keep=2)
blank = {"all": put(0 * value, "data"), "split": put(0 * value), "n": np.int64(0)}
restored = checkpoint.restore(sys.argv[1], blank)
assert restored["n"] == 3 and checkpoint.steps(sys.argv[1]) == [2, 3]
assert (np.asarray(restored["split"]) == 3 * value).all()
assert all((shard.data == value[shard.index]).all() for shard in restored["all"].addressable_shards)
"""


def test_two_processes(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    folder = tmp_path / "exp[2]"  # which Orbax takes for a pattern
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(folder), address, str(i)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        errors = [child.communicate(timeout=60)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(errors)
    template = {"all": np.zeros(8, np.float32), "split": np.zeros(8, np.float32), "n": np.int64(0)}
    assert checkpoint.restore(folder, template)["split"][7] == 21
    assert sorted(os.listdir(folder)) == ["2", "3"]  # noqa: PTH208

"""Checkpoints that an earlier version wrote, or Orbax alone."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from domino_jax.run import checkpoint, checks, provenance

PARAMS = {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "fc": [jnp.ones(2)]}
STATS = {"mean": np.full(2, 3, np.float32)}
STATE = {"params": PARAMS, "batch_stats": STATS, "step": 7, "opt": {"momentum": PARAMS}}
WANTED = {
    "params": {"conv": {"kernel": np.zeros((2, 3), np.float32)}, "fc": [np.zeros(2, np.float32)]},
    "stats": {"mean": np.zeros(2, np.float32)},
}


def test_a_checkpoint_of_before_is_read() -> None:
    """The files are those of the first version: Orbax's and leaves.json in one folder."""
    template = {
        "params": {"conv": {"kernel": np.zeros((2, 3), np.float32)}},
        "stats": {"mean": np.zeros(2, np.float32)},
        "step": np.int64(0),
        "none": np.ones((0, 3), np.float32),
    }
    restored = checkpoint.restore(Path(__file__).parent / "before", template)
    assert restored["step"] == 300
    assert restored["none"].shape == (0, 3)
    np.testing.assert_array_equal(restored["params"]["conv"]["kernel"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(restored["stats"]["mean"], [1, 1])


def standard(folder: Path, tree: Any) -> Path:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "here", tree)
    return folder / "here"


def pytree(folder: Path, tree: Any) -> Path:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / "here", tree)
    return folder / "here"


def files_of_arrays(folder: Path, tree: Any) -> Path:
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(folder / "here", tree)
    return folder / "here"


def managed(folder: Path, tree: Any, **options: Any) -> Path:
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options)) as manager:
        manager.save(9, args=ocp.args.StandardSave({"params": {"other": np.zeros(1)}}))
        manager.save(10, args=ocp.args.StandardSave(tree))
    return folder


def long_names(folder: Path, tree: Any) -> Path:
    return managed(folder, tree, step_prefix="step", step_format_fixed_length=8)


def one_step(folder: Path, tree: Any) -> Path:
    return managed(folder, tree) / "10"


def named_item(folder: Path, tree: Any) -> Path:
    with ocp.CheckpointManager(folder) as manager:
        items = {"state": ocp.args.StandardSave(tree), "seen": ocp.args.JsonSave({"examples": 5})}
        manager.save(10, args=ocp.args.Composite(**items))
    return folder


def an_item_each(folder: Path, tree: Any) -> Path:
    with ocp.CheckpointManager(folder) as manager:
        items = {name: ocp.args.StandardSave(part) for name, part in tree.items() if part != 7}
        manager.save(10, args=ocp.args.Composite(**items))
    return folder


WRITERS = [
    *(standard, pytree, files_of_arrays, managed, long_names, one_step),
    *(named_item, an_item_each),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_checkpoint_of_orbax_is_a_start(tmp_path: Path, write: Any) -> None:
    place = write(tmp_path / "plain", STATE)
    # Orbax itself cannot write there, and reads nothing there.
    place = (tmp_path / "plain").rename(tmp_path / "a [b]") / place.relative_to(tmp_path / "plain")
    checks.require_init(str(place), WANTED)
    restored = checkpoint.restore_parts(place, WANTED)
    np.testing.assert_array_equal(restored["params"]["conv"]["kernel"], PARAMS["conv"]["kernel"])
    np.testing.assert_array_equal(restored["params"]["fc"][0], [1, 1])
    np.testing.assert_array_equal(restored["stats"]["mean"], [3, 3])


@pytest.mark.parametrize("write", [standard, managed])
def test_another_start_of_the_same_name_is_another(tmp_path: Path, write: Any) -> None:
    found = [
        provenance._content("init", str(write(tmp_path / name / "a", tree)))
        for name, tree in (("one", STATE), ("other", STATE | {"step": 8}))
    ]
    assert found[0] != found[1]


VALUES = {"conv": {"kernel": {"value": PARAMS["conv"]["kernel"]}}, "fc": [{"value": jnp.ones(2)}]}


@pytest.mark.parametrize(
    "tree",
    [
        PARAMS,  # at the top
        {"params": PARAMS},
        VALUES,  # as nnx.State has it
        {"params": VALUES, "step": 3},
    ],
)
@pytest.mark.parametrize("write", [standard, managed])
def test_parameters_alone(tmp_path: Path, write: Any, tree: Any) -> None:
    wanted = WANTED | {"stats": {}}
    restored = checkpoint.restore_parts(write(tmp_path, tree), wanted)
    np.testing.assert_array_equal(restored["params"]["conv"]["kernel"], PARAMS["conv"]["kernel"])
    assert restored["stats"] == {}


def test_statistics_at_the_top_stay_apart(tmp_path: Path) -> None:
    restored = checkpoint.restore_parts(
        standard(tmp_path, {**PARAMS, "batch_stats": STATS}), WANTED
    )
    np.testing.assert_array_equal(restored["stats"]["mean"], [3, 3])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"params": PARAMS}, "lacks 'stats/mean'"),
        ({"params": {"fc": [jnp.ones(2)]}, "stats": STATS}, "lacks 'params/conv/kernel'"),
        ({"params": {**PARAMS, "b": 1.0}, "stats": STATS}, "an unexpected 'params/b'"),
        ({"model": PARAMS, "batch_stats": STATS}, "unexpected 'params/model/conv/kernel'"),
        (
            {"params": {**PARAMS, "fc": [jnp.ones(3)]}, "stats": STATS},
            r"'params/fc/0' is float32\[3\] here, expected float32\[2\]",
        ),
        (
            {"params": {**PARAMS, "fc": [jnp.ones(2, jnp.bfloat16)]}, "stats": STATS},
            r"'params/fc/0' is bfloat16\[2\] here, expected float32\[2\]",
        ),
    ],
)
def test_another_network_is_named(tmp_path: Path, tree: Any, message: str) -> None:
    place = str(standard(tmp_path, tree))
    with pytest.raises(ValueError, match=message) as caught:
        checks.require_init(place, WANTED)
    assert str(caught.value).startswith(f"init: {place}: ")


def test_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    place = standard(tmp_path, STATE)
    (place / "manifest.ocdbt").unlink()
    (place / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match=f"^init: {place}: Orbax cannot read the checkpoint: "):
        checks.require_init(str(place), WANTED)
    place = standard(tmp_path / "other", STATE)
    (place / "manifest.ocdbt").unlink()
    with pytest.raises(ValueError, match=f"^{place}: Orbax cannot read the checkpoint: ") as caught:
        checkpoint.restore_parts(place, WANTED)
    assert "\n" not in str(caught.value)

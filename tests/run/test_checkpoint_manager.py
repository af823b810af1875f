"""Why Orbax's CheckpointManager does not keep our steps: where one of these fails, it may."""

from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

ARGS = ocp.args.PyTreeSave({"a": np.arange(3.0)})
CHANGED = ocp.args.PyTreeSave({"a": -np.arange(3.0)})


def manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    options |= {"enable_async_checkpointing": False, "cleanup_tmp_directories": True}
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options))


def test_a_step_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    with manager(tmp_path) as steps:
        assert steps.save(3, args=ARGS)
        assert not steps.save(3, args=CHANGED)
        with pytest.raises(ValueError, match="already exists"):
            steps.save(3, args=CHANGED, force=True)


def test_half_of_a_removed_step_counts_as_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manager(tmp_path, max_to_keep=1, num_deletion_threads=1) as steps:
        steps.save(3, args=ARGS)

        def stop(path: Any, *_: Any, **__: Any) -> None:
            next(file for file in Path(path).rglob("_METADATA") if file.is_file()).unlink()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("shutil.rmtree", stop)
            steps.save(4, args=ARGS)
    with manager(tmp_path) as steps:
        assert steps.all_steps() == [3, 4]
        with pytest.raises((ValueError, FileNotFoundError)):
            steps.restore(3, args=ocp.args.PyTreeRestore())


def test_a_flipped_bit_is_restored_as_it_is(tmp_path: Path) -> None:
    value = np.random.default_rng(0).normal(size=20_000)
    with manager(tmp_path) as steps:
        steps.save(3, args=ocp.args.PyTreeSave({"a": value}))
        large = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(large.read_bytes())
        data[len(data) // 2] ^= 1
        large.write_bytes(bytes(data))
        restored = steps.restore(3, args=ocp.args.PyTreeRestore({"a": value}))["a"]
    assert (restored != value).any()

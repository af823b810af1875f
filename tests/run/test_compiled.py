"""A broken entry among the compiled programs is discarded and made again, without a word."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import os
import jax
import jax.numpy as jnp
from domino_jax.run import compiled
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
compiled.discard_broken(os.environ["JAX_COMPILATION_CACHE_DIR"])
print(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((2, 2))))
"""


def run(folder: Path) -> tuple[int, str, str]:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b""])
def test_a_broken_entry_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    first = run(tmp_path)
    assert (first[0], first[2]) == (0, "")
    broken = {path: damage(path.read_bytes()) for path in tmp_path.glob("*-cache")}
    assert len(broken) >= 2
    for path, data in broken.items():
        path.write_bytes(data)
    assert run(tmp_path) == first
    assert set(tmp_path.glob("*-cache")) == set(broken)
    assert all(path.read_bytes() != data for path, data in broken.items())

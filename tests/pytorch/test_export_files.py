"""What an export is made of: who may read it, whole numbers as inputs, and flags."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax import export, find_layers, models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import NM
from domino_jax.pytorch import exported
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write
from domino_jax.train.masking import hard_mask


def of_tokens(dtype):
    """A table that is looked up and a matrix, of five sequences of three numbers below 16."""
    rng = np.random.default_rng(0)
    params = {
        "table": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
        "head": {"kernel": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)},
    }

    def apply(params, tokens):
        return params["table"][tokens.astype(jnp.int32)].mean(1) @ params["head"]["kernel"]

    layers = find_layers(apply, params, jax.ShapeDtypeStruct((1, 3), dtype), 4)
    found = {"head/kernel": NM(2, 4)}
    params = hard_mask(params, layers, n_by_path(found, layers))
    inputs = rng.integers(0, 16, (5, 3)).astype(dtype)
    return Network("mine:net", {}, models.plain(apply, params), layers, found, inputs, False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_tokens_are_what_an_embedding_takes(tmp_path, dtype):
    network = of_tokens(dtype)
    document = write(network, tmp_path / "out", dtype="float32")
    assert (document["in_channels"], document["image"]) == (None, None)
    held = exported.read_arrays(tmp_path / "out" / exported.SAMPLES)
    assert held["inputs"].dtype == np.int32
    np.testing.assert_array_equal(held["inputs"], network.inputs)


@pytest.mark.parametrize(("mask", "files", "folders"), [(0o022, 0o644, 0o755), (0o7, 0o660, 0o770)])
def test_the_umask_says_who_may_read(tmp_path, mask, files, folders):
    before = os.umask(mask)
    try:
        write(of_tokens(np.uint8), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folders
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "masks.safetensors", "export.json"} <= set(modes)
    assert set(modes.values()) == {files}, modes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdr=x", "--out=y"], "unknown flag '--workdr'; nearest: --workdir"),
        (["--workdir=x"], "--out=FOLDER is missing"),
        (["--out=y"], "--workdir=FOLDER is missing"),
        (["--workdir=x", "--out=y", "z"], "unknown flag 'z'"),
    ],
)
def test_flags(arguments, words, capsys):
    assert export.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)

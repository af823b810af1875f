"""The byte language model in PyTorch: an export's logits, --check, ONNX, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from domino_jax import find_layers, models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.core.scheme import NM
from domino_jax.deploy import networks
from domino_jax.pytorch import exported
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write

CLASSES, LENGTH = 19, 12
OPTIONS = {"width": 32, "depth": 2, "heads": 4}


def _network():
    """A model of random weights (also norms and biases); every second layer keeps 2 of 4."""
    example = jax.ShapeDtypeStruct((1, LENGTH), jnp.uint8)
    model = models.create("byte_lm", example=example, classes=CLASSES, seed=0, **OPTIONS)
    rng = np.random.default_rng(7)
    lively = {
        path: jnp.asarray(np.asarray(leaf) + rng.normal(0, 0.15, leaf.shape), leaf.dtype)
        for path, leaf in leaves_by_path(model.params).items()
    }
    params = replace_leaves(model.params, lively)

    def forward(params, x):
        return model.apply(params, {}, x, train=False, key=None)[0]

    layers = find_layers(forward, params, example, 4)
    found = {s.name: NM((2, 4)[i % 2], 4) for i, s in enumerate(grouped(layers))}
    levels = n_by_path(found, layers)
    params = jax.jit(lambda p: hard_mask(p, layers, levels))(params)
    inputs = rng.integers(0, CLASSES, (5, LENGTH)).astype(np.uint8)
    model = model._replace(params=params)
    return Network("byte_lm", OPTIONS, model, layers, found, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("byte_lm") / "out"
    write(_network(), out, dtype="float32")
    return out


def test_logits_are_those_of_the_network_in_jax(folder):
    document, held = exported.read_document(folder), exported.read_arrays(folder / exported.SAMPLES)
    assert (document["positions"], document["classes"]) == (LENGTH, CLASSES)
    network = networks.of_export(document).eval()
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=True)
    with torch.no_grad():
        found = network(torch.from_numpy(held["inputs"])).numpy()
        start = network(torch.from_numpy(held["inputs"][:, :7])).numpy()
    wanted = held["logits"]
    assert wanted.shape == (5, LENGTH, CLASSES)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(
        start, found[:, :7], rtol=0, atol=1e-5
    )  # shorter ones, and none looks ahead


def test_onnx(tmp_path):
    write(_network(), tmp_path / "out", dtype="float32", onnx=True)  # compares the logits itself
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": None}, "byte_lm: positions must be a positive integer, got None"),
        ({"depth": 0}, "byte_lm: depth must be a positive integer, got 0"),
        ({"heads": 5}, "byte_lm: width must be a multiple of the 5 heads, got 32"),
        ({"folded": True}, "byte_lm: has no batch norms that could be folded"),
        ({"classes": 0}, "byte_lm: classes and in_channels are 1 or more, got 0"),
    ],
)
def test_wrong_options(options, message):
    given = {"classes": 3, "positions": 4, "in_channels": None} | OPTIONS | options
    with pytest.raises(ValueError, match=message):
        networks.create("byte_lm", **given)


def test_too_many_positions():
    network = networks.create("byte_lm", classes=3, positions=4, **OPTIONS)
    with pytest.raises(ValueError, match="expected at most 4 positions, got 5"):
        network(torch.zeros((1, 5), dtype=torch.int32))

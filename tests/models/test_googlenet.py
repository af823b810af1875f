"""GoogLeNet: torchvision's names, norms, dropout, input transform; what is refused.

Against torchvision's logits: test_torchvision.py; sizes: test_network_counts.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_state
from flax import nnx

from domino_jax import models
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.models import googlenet
from domino_jax.pytorch import folding
from domino_jax.trace import norms
from domino_jax.trace.layers import find_layers

DIGEST = "545eb1baab91f5d8"  # of torchvision 0.28.0, aux_logits=False
EXAMPLE = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)


def _create(seed=0, example=EXAMPLE, **options):
    return models.create("googlenet", example=example, classes=5, seed=seed, **options)


@pytest.fixture(scope="module")
def network():
    """A network of random statistics, and its forward passes, compiled."""
    model = _create(dropout=0.5)
    rng = np.random.default_rng(0)
    stats = {
        path: jnp.asarray(
            rng.normal(0, 0.1, leaf.shape)
            if path.endswith("mean")
            else rng.uniform(0.5, 1.5, leaf.shape),
            jnp.float32,
        )
        for path, leaf in leaves_by_path(model.stats).items()
    }
    model = model._replace(stats=replace_leaves(model.stats, stats))
    return model, jax.jit(model.apply, static_argnames="train")


def _images(count=4):
    return np.random.default_rng(1).normal(size=(count, 16, 16, 3)).astype(np.float32)


def test_every_name_and_shape_is_torchvisions():
    module = lambda: googlenet.GoogLeNet(3, 1000, dropout=0.2, transform_input=False)  # noqa: E731
    assert torch_state.digest(models.from_nnx(nnx.eval_shape(module)), 32) == DIGEST


def test_paths_and_shapes_by_hand(network):
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(network[0].params).items()}
    assert shapes["conv1/conv/kernel"] == (7, 7, 3, 64)
    assert shapes["inception3a/branch1/conv/kernel"] == (1, 1, 192, 64)
    assert shapes["inception3a/branch3/1/conv/kernel"] == (3, 3, 16, 32)
    assert shapes["inception5b/branch4/1/bn/scale"] == (128,)
    assert shapes["fc/kernel"] == (1024, 5)
    assert not any(path.startswith(("aux", "dropout")) for path in shapes)


def test_its_norms_have_an_epsilon_of_their_own():
    """torchvision's 0.001: a channel of variance 0.001 is scaled by √(0.001 / 0.002)."""
    norm = googlenet.BasicConv(1, 1, 1, dtype=None).bn
    model = models.from_nnx(norm)
    stats = {"mean": jnp.zeros(1), "var": jnp.full(1, 1e-3)}
    found, _ = model.apply(model.params, stats, jnp.ones((1, 1)), train=False, key=None)
    np.testing.assert_allclose(found, [[1 / np.sqrt(2e-3)]], rtol=1e-6)


def test_dropout_needs_a_key_in_training_alone(network):
    model, call = network
    run = lambda key: np.asarray(  # noqa: E731
        call(model.params, model.stats, _images(), train=False, key=key)[0]
    )
    np.testing.assert_array_equal(run(jax.random.key(0)), run(None))

    def trained(model):
        return jax.eval_shape(
            lambda *given: model.apply(*given, train=True, key=None), *model[1:], _images()
        )

    with pytest.raises(ValueError, match="key must not be None"):
        trained(model)
    assert trained(_create(dropout=0.0))[0].shape == (4, 5)


def test_the_input_transform_is_two_normalizations():
    """From ImageNet's mean and deviation back to [0, 1], and to mean and deviation 1/2."""
    pixels = np.random.default_rng(0).uniform(size=(2, 3, 3, 3)).astype(np.float32)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = googlenet._transformed(jnp.asarray((pixels - mean) / deviation, jnp.float32))
    np.testing.assert_allclose(found, (pixels - 0.5) / 0.5, rtol=0, atol=1e-6)


def test_folding_its_norms_keeps_the_logits(network):
    model, call = network
    layers = find_layers(
        lambda p, x: model.apply(p, model.stats, x, train=False, key=None)[0],
        model.params,
        EXAMPLE,
        2,
    )
    roles = {layer.path: layer.roles for layer in layers if layer.roles}
    evaluated = jax.make_jaxpr(
        lambda s, x: model.apply(model.params, s, x, train=False, key=None)[0]
    )(model.stats, EXAMPLE)
    epsilons = norms.epsilons(evaluated, list(leaves_by_path(model.stats)))
    assert len(epsilons) == 57
    np.testing.assert_allclose(list(epsilons.values()), 1e-3, rtol=1e-6)
    params, stats = (
        {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items()}
        for tree in model[1:]
    )
    found = folding.fold(params, stats, roles, epsilons)
    folded = replace_leaves(model.params, found.params), replace_leaves(model.stats, found.stats)
    before = np.asarray(call(*model[1:], _images(), train=False, key=None)[0])
    after = np.asarray(call(*folded, _images(), train=False, key=None)[0])
    assert before.std(0).min() > 1e-3  # they depend on the images
    assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout: expected a share from 0 to below 1, got 1\.0"),
        ({"transform_input": 1}, "transform_input: expected True or False, got 1"),
        (
            {
                "transform_input": True,
                "example": jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32),
            },
            "transform_input: wants images of 3 channels, got 1",
        ),
        (
            {"example": jax.ShapeDtypeStruct((1, 14, 16, 3), jnp.float32)},
            r"here at least 15 by 15, got \(1, 14, 16, 3\)",
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        _create(**options)

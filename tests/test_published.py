"""The published 80 % scheme of ResNet-50 lands on ours, with the published counts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax import budget, models, report
from domino_jax import scheme as schemes
from domino_jax.layers import find_layers, flattened
from domino_jax.models.resnet import Form, ResNet
from domino_jax.scheme import NM

TEXT = (Path(__file__).parent / "data" / "resnet50_M16_0.80.txt").read_text()
EXAMPLE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
STEM = "conv1/kernel"


def layers_of(model):
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.stats)

    def forward(params, inputs):
        return model.apply(params, stats, inputs, train=False, key=None)[0]

    return find_layers(forward, model.params, EXAMPLE, 16)


@pytest.fixture(scope="module")
def layers():
    return layers_of(models.create("resnet50", example=EXAMPLE, classes=1000, seed=0))


@pytest.fixture(scope="module")
def scheme(layers):
    return schemes.from_published(schemes.read_published(TEXT), budget.signatures(layers))


def test_the_stem_alone_stays_dense(layers):
    assert {spec.name: spec.reason for spec in layers if spec.reason} == {
        STEM: "input size 3 is no multiple of 16"
    }
    assert len(layers) == 54


def test_signatures_are_in_the_published_order(layers):
    found = budget.signatures(layers)
    assert found[0] == (STEM, 3, 64, (7, 7))
    # The shortcut comes after the third convolution; in the first stage their shapes are equal.
    assert found[11:15] == [
        ("layer2/0/conv1/kernel", 256, 128, (1, 1)),
        ("layer2/0/conv2/kernel", 128, 128, (3, 3)),
        ("layer2/0/conv3/kernel", 128, 512, (1, 1)),
        ("layer2/0/downsample/0/kernel", 256, 512, (1, 1)),
    ]
    assert found[-1] == ("fc/kernel", 2048, 1000, ())


def test_weights_and_macs_are_the_published_ones(layers, scheme):
    kept = budget.total(layers, budget.weights, scheme)
    dense = budget.total(layers, budget.weights)
    assert (kept, dense) == (4_907_200, 25_502_912)
    assert round(1 - kept / dense, 6) == 0.807583
    assert budget.total(layers, budget.macs, scheme) == 1_141_313_536
    assert budget.total(layers, budget.macs) == 4_089_184_256


def test_it_goes_back_to_the_published_text(layers, scheme):
    assert schemes.to_published(scheme, budget.signatures(layers)) == TEXT


def test_masks_take_it_although_the_stem_stays_dense(layers, scheme):
    assert scheme[STEM] == NM(16, 16)
    levels = budget.levels(scheme, layers)
    assert STEM not in levels
    assert {path: int(n) for path, n in levels.items()} == {
        path: nm.n for path, nm in scheme.items() if path != STEM
    }
    totals = report.summary(layers, scheme, budget.weights, 0.2)["totals"]
    assert totals["weights"]["scheme"] == 4_907_200


def test_it_also_fits_where_the_stem_is_flattened(layers, scheme):
    flat = flattened(layers, 16)
    assert not any(spec.reason for spec in flat)
    assert budget.total(flat, budget.weights, scheme) == 4_907_200
    assert budget.total(flat, budget.macs, scheme) == 1_141_313_536
    assert int(budget.levels(scheme, flat)[STEM]) == 16


def test_it_does_not_land_on_another_network():
    form = Form("bottleneck", (3, 4, 23, 3))
    deeper = models.from_nnx(nnx.eval_shape(lambda: ResNet(form, channels=3, classes=1000)))
    signatures = budget.signatures(layers_of(deeper))
    with pytest.raises(ValueError, match="the published scheme has 54 layers, the network 105"):
        schemes.from_published(schemes.read_published(TEXT), signatures)

"""The published text, and that of ResNet-50 at 80 % on our network, with the published counts."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax import models
from domino_jax.core import costs, published
from domino_jax.core.kernels import n_by_path, signatures
from domino_jax.core.rules import flattened
from domino_jax.core.scheme import NM
from domino_jax.models.resnet import Form, ResNet
from domino_jax.run import experiment, report
from domino_jax.trace.layers import find_layers

DATA = Path(__file__).parents[1] / "data"
FILE = DATA / "resnet50_M16_0.80.txt"
TEXT = FILE.read_text()
EXAMPLE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
STEM = "conv1/kernel"
SIGNATURES = [("stem", 3, 8, (3, 3)), ("mixer", 8, 8, (3,)), ("fc", 8, 10, ())]
SMALL = (
    "{'SparseConv0_3-8-(3, 3)': [4, 4], 'SparseConv1_8-8-(3,)': [1, 4], 'Linear0_8-10': [2, 4]}\n"
)


def resnet50_signatures() -> list[published.Signature]:
    """Reads the layers off the reference shapes, which are not the published text's own."""
    shapes = json.loads((DATA / "erk_and_macs.json").read_text())["resnet50"]["shapes"]
    return [
        (f"layer{i}", shape[1], shape[0], tuple(shape[2:]))
        for i, shape in enumerate(shapes.values())
    ]


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
    return published.from_published(published.read_published(TEXT), signatures(layers))


def test_the_stem_alone_stays_dense(layers):
    assert {spec.name: spec.reason for spec in layers if spec.reason} == {
        STEM: "input size 3 is no multiple of 16"
    }
    assert len(layers) == 54


def test_signatures_are_in_the_published_order(layers):
    found = signatures(layers)
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
    kept = costs.total_cost(layers, costs.count_weights, scheme)
    dense = costs.total_cost(layers, costs.count_weights)
    assert (kept, dense) == (4_907_200, 25_502_912)
    assert round(1 - kept / dense, 6) == 0.807583
    assert costs.total_cost(layers, costs.count_macs, scheme) == 1_141_313_536
    assert costs.total_cost(layers, costs.count_macs) == 4_089_184_256


def test_the_scripts_take_its_file(layers, scheme):
    assert experiment.read_scheme(FILE, layers) == scheme


def test_masks_take_it_although_the_stem_stays_dense(layers, scheme):
    assert scheme[STEM] == NM(16, 16)
    levels = n_by_path(scheme, layers)
    assert STEM not in levels
    assert {path: int(n) for path, n in levels.items()} == {
        path: nm.n for path, nm in scheme.items() if path != STEM
    }
    totals = report.summary(layers, scheme, costs.budget_of(layers, 0.2))["totals"]
    assert totals["weights"]["scheme"] == 4_907_200


def test_it_also_fits_where_the_stem_is_flattened(layers, scheme):
    flat = flattened(layers, 16)
    assert not any(spec.reason for spec in flat)
    assert costs.total_cost(flat, costs.count_weights, scheme) == 4_907_200
    assert costs.total_cost(flat, costs.count_macs, scheme) == 1_141_313_536
    assert int(n_by_path(scheme, flat)[STEM]) == 16
    assert published.load_published(FILE, signatures(flat)) == scheme


def test_it_does_not_land_on_another_network():
    form = Form("bottleneck", (3, 4, 23, 3))
    deeper = models.from_nnx(nnx.eval_shape(lambda: ResNet(form, channels=3, classes=1000)))
    deeper = signatures(layers_of(deeper))
    with pytest.raises(ValueError, match="expected 105 layers, as the network has, got 54"):
        published.from_published(published.read_published(TEXT), deeper)


def test_published_by_hand() -> None:
    entries = published.read_published(SMALL)
    assert entries[0] == published.Published("conv", 3, 8, (3, 3), NM(4, 4))
    assert entries[1] == ("conv", 8, 8, (3,), NM(1, 4))
    assert entries[2] == ("linear", 8, 10, (), NM(2, 4))
    scheme = published.from_published(entries, SIGNATURES)
    assert list(scheme.items()) == [("stem", NM(4, 4)), ("mixer", NM(1, 4)), ("fc", NM(2, 4))]


def test_published_resnet50() -> None:
    entries = published.read_published(TEXT)
    assert len(entries) == 54
    assert entries[0] == ("conv", 3, 64, (7, 7), NM(16, 16))
    assert entries[53] == ("linear", 2048, 1000, (), NM(4, 16))
    scheme = published.from_published(entries, resnet50_signatures())
    assert [scheme[f"layer{i}"] for i in (0, 53)] == [NM(16, 16), NM(4, 16)]


def test_published_resnet50_keeps_the_known_number_of_weights() -> None:
    entries = published.read_published(TEXT)
    weights = kept = 0
    for _, cin, cout, kernel, nm in entries:
        size = cin * cout * (kernel[0] * kernel[1] if kernel else 1)
        weights += size
        kept += size * nm.n // nm.m
    assert (kept, weights) == (4_907_200, 25_502_912)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a published scheme: .* at line 1"),
        ("{'SparseConv0_3-8-(3, 3)': [4, 4],\n  'Linear0_8-10' [2, 4]}", "at line 2"),
        ("{'SparseConv0_3-8-(3, 3)': [4, 4], 'Sparse", "not a published scheme: "),
        ("\0", "not a published scheme: "),
        ("[1, 2]", "not a published scheme: expected"),
        ("{'conv': [1, 2]}", "entry 0 .*expected a name like .*got 'conv'"),
        ("{7: [1, 2]}", "entry 0 .*got 7"),
        ("{'SparseConv0_3-8': [1, 2]}", "entry 0 .*got 'SparseConv0_3-8'"),
        ("{'Linear0_3-8-(3, 3)': [1, 2]}", "entry 0 .*got 'Linear0_3-8-"),
        ("{'SparseConv1_3-8-(1, 1)': [1, 2]}", "expected SparseConv0, got 'SparseConv1_"),
        ("{'Linear0_3-8': [1, 2], 'Linear0_3-8': [1, 4]}", "entry 1 .*expected Linear1"),
        ("{'Linear0_3-8': [1, 2, 3]}", "expected \\[N, M\\], got \\[1, 2, 3\\]"),
        ("{'Linear0_3-8': '1:2'}", "expected \\[N, M\\], got '1:2'"),
        ("{'Linear0_3-8': [3, 2]}", "'Linear0_3-8': .*got 3:2"),
        ("{'Linear0_3-8': [n, 2]}", "entry 0 .*neither names nor numbers"),
        ("{**{}}", "entry 0 .*"),
    ],
)
def test_published_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        published.read_published(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("position", "other", "message"),
    [
        (
            0,
            ("stem", 4, 8, (3, 3)),
            r"layer 0, 'stem': .* \(4, 8, \(3, 3\)\) .* \(3, 8, \(3, 3\)\)",
        ),
        (1, ("mixer", 8, 4, (3,)), "layer 1, 'mixer'"),
        (1, ("mixer", 8, 8, (1,)), "layer 1, 'mixer'"),
        (2, ("fc", 8, 10, (1, 1)), r"layer 2, 'fc': .* \(8, 10, \(1, 1\)\) .* \(8, 10, \(\)\)"),
        (1, ("stem", 8, 8, (3,)), "layer 1, 'stem': this path was there before"),
    ],
)
def test_published_of_another_network(position: int, other: Any, message: str) -> None:
    signatures = [*SIGNATURES]
    signatures[position] = other
    with pytest.raises(ValueError, match=message):
        published.from_published(published.read_published(SMALL), signatures)


def test_published_with_other_counts() -> None:
    entries = published.read_published(SMALL)
    with pytest.raises(ValueError, match="expected 2 layers, as the network has, got 3"):
        published.from_published(entries, SIGNATURES[:2])


def test_a_file_of_it(tmp_path: Path) -> None:
    signatures = resnet50_signatures()
    found = published.load_published(FILE, signatures)
    assert found == published.from_published(published.read_published(TEXT), signatures)
    (tmp_path / "marked.txt").write_text(TEXT, encoding="utf-8-sig")
    assert published.load_published(tmp_path / "marked.txt", signatures) == found
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "list.txt").write_text("[]")
    (tmp_path / "deep.txt").write_text("-" * 100_000 + "1")
    for name, message in (
        ("none.txt", "cannot read the scheme: No such file"),
        ("binary.txt", "utf-8"),
        ("list.txt", "not a published scheme"),
        ("deep.txt", "not a published scheme: it is nested too deeply"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            published.load_published(tmp_path / name, signatures)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
    with pytest.raises(ValueError, match=r"resnet50_M16_0\.80\.txt: expected 53 layers, .* got 54"):
        published.load_published(FILE, signatures[:-1])

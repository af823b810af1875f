"""Parameters and multiply-adds of every network, against published numbers.

Exact counts of torchvision's networks are torchvision 0.28.0's own, at 224x224 with 1000 classes:
the sum of `p.numel()`, and with forward hooks the sum of weight.numel() · H' · W' over all
nn.Conv2d and of weight.numel() over all nn.Linear. Those of CIFAR's forms (32x32, 3 channels)
follow from their definitions: with d blocks a stage a ResNet of basic blocks has
432 · 1024 + 2d · 2304 · 1024 + (4608 + (2d − 1) · 9216) · 256 + (18432 + (2d − 1) · 36864) · 64
multiply-adds and those of the last layer.

Printed numbers, compared in all their digits:

- ResNet-18 to -152: torchvision's documentation (`num_params`, `_ops` of the weights);
- ResNet-20 to -110: He et al. 2016, table 6;
- ResNet-56 of bottlenecks: the DominoSearch paper, which counts weights of convolutions;
- RegNetX: Radosavovic et al. 2020; 3.2GF also the DominoSearch paper's. 400MF is torchvision's: the
  paper's last stage is 384 wide, not 400, and its network has 5.2 M;
- GoogLeNet: torchvision's, without auxiliary heads;
- VGG for CIFAR: pruning papers on the definition of github.com/kuangliu/pytorch-cifar;
- ViT: Touvron et al. 2021 (DeiT), table 1; timm's vit_tiny_patch16_224, vit_small_patch16_224 and
  vit_base_patch16_224 have exactly these parameters. B is torchvision's too: its 17.564 G are those
  of weights and of attention's products, 2 · T² · C for each of 12 layers, T = 197;
- byte_lm is our own: with T = 128, C = 128 and 4 layers 12 · C² weights a layer and 256 · C of the
  head, each used T times, and tables of T + 256 rows that are only looked up or added.
"""

import jax
import jax.numpy as jnp
import pytest

from domino_jax import activation_macs, find_layers, models
from domino_jax.models import byte_lm, convolutional, vit

CASES = [
    # name, size (positions of byte_lm), classes, parameters, MACs, printed parameters, printed MACs
    ("resnet18", 224, 1000, 11_689_512, 1_814_073_344, "11.7 M", "1.814 G"),
    ("resnet34", 224, 1000, 21_797_672, 3_663_761_408, "21.8 M", "3.664 G"),
    ("resnet50", 224, 1000, 25_557_032, 4_089_184_256, "25.6 M", "4.089 G"),
    ("resnet101", 224, 1000, 44_549_160, 7_801_405_440, "44.5 M", "7.801 G"),
    ("resnet152", 224, 1000, 60_192_808, 11_513_626_624, "60.2 M", "11.514 G"),
    ("regnet_x_400mf", 224, 1000, 5_495_976, 413_812_608, "5.5 M", "0.4 G"),
    ("regnet_x_800mf", 224, 1000, 7_259_656, 799_699_712, "7.3 M", "0.8 G"),
    ("regnet_x_1_6gf", 224, 1000, 9_190_136, 1_602_849_792, "9.2 M", "1.6 G"),
    ("regnet_x_3_2gf", 224, 1000, 15_296_552, 3_176_621_952, "15.3 M", "3.2 G"),
    ("googlenet", 224, 1000, 6_624_904, 1_498_376_192, "6.6 M", "1.5 G"),
    ("resnet8", 32, 10, 75_290, 12_239_488, "", ""),
    ("resnet20", 32, 10, 269_722, 40_551_040, "0.27 M", ""),
    ("resnet32", 32, 10, 464_154, 68_862_592, "0.46 M", ""),
    ("resnet44", 32, 10, 658_586, 97_174_144, "0.66 M", ""),
    ("resnet56", 32, 10, 853_018, 125_485_696, "0.85 M", ""),
    ("resnet110", 32, 10, 1_727_962, 252_887_680, "1.7 M", ""),
    ("resnet56_bottleneck", 32, 100, 892_660, 127_345_664, "", "127 M"),
    ("vgg16_cifar", 32, 10, 14_728_266, 313_201_664, "14.7 M", "313 M"),
    ("vgg19_cifar", 32, 10, 20_040_522, 398_136_320, "20.0 M", "398 M"),
    ("vit_ti16", 224, 1000, 5_717_416, 1_074_851_328, "6 M", ""),
    ("vit_s16", 224, 1000, 22_050_664, 4_241_218_560, "22 M", ""),
    ("vit_b16", 224, 1000, 86_567_656, 16_848_500_736, "86.6 M", "16.85 G"),
    ("byte_lm", 128, 256, 875_264, 128 * (4 * 12 * 128**2 + 256 * 128), "", ""),
]
# Multiply-adds of products that no weight takes part in; none elsewhere.
ATTENTION = {
    "vit_ti16": 12 * 2 * 197**2 * 192,
    "vit_s16": 12 * 2 * 197**2 * 384,
    "vit_b16": 17_563_828_224 - 16_848_500_736,
    "byte_lm": 4 * 2 * 128**2 * 128,
}


def _kernels(model):
    return [leaf for leaf in jax.tree.leaves(model.params) if leaf.ndim > 1]


@pytest.fixture
def abstract(monkeypatch):
    """Makes networks whose weights are shapes alone, and the shape of one example."""
    for module in (convolutional, vit, byte_lm):
        monkeypatch.setattr(module, "fill", lambda shapes, *draws: shapes)

    def make(name, size, classes):
        image, text = ((1, size, size, 3), jnp.float32), ((1, size), jnp.int32)
        example = jax.ShapeDtypeStruct(*(text if name == "byte_lm" else image))
        return models.factory(name)(example=example, classes=classes, seed=0), example

    return make


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters", "macs", "printed", "printed_macs"),
    CASES,
    ids=[case[0] for case in CASES],
)
def test_counts(name, size, classes, parameters, macs, printed, printed_macs, abstract):
    model, example = abstract(name, size, classes)

    def forward(weights, inputs):
        return model.apply(*weights, inputs, train=False, key=None)[0]

    weights = model.params, model.stats
    layers = find_layers(forward, weights, example, 2)
    assert len(layers) == len(_kernels(model))
    assert activation_macs(forward, weights, example) == ATTENTION.get(name, 0)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == parameters
    assert sum(spec.macs for spec in layers) == macs
    _require_printed(parameters, printed)
    _require_printed(macs, printed_macs)


def _require_printed(count, printed):
    if printed:
        number, unit = printed.split()
        decimals = len(number.partition(".")[2])
        assert f"{count / {'M': 1e6, 'G': 1e9}[unit]:.{decimals}f}" == number


def test_the_papers_resnet56(abstract):
    model, _ = abstract("resnet56_bottleneck", 32, 100)
    convolutions = sum(leaf.size for leaf in _kernels(model) if leaf.ndim == 4)
    assert convolutions == 853_936
    _require_printed(convolutions, "0.85 M")


def test_every_network_is_counted():
    """But causal_lm, whose size is that of the folder it is read from."""
    assert {case[0] for case in CASES} == set(models.names()) - {"causal_lm"}

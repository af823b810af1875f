"""torchvision itself: its weights in, ours out, the same logits in training and evaluation.

Every weight and statistic is random. Of the families with several sizes one runs always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_state
import torchvision

from domino_jax import models
from domino_jax.core.paths import leaves_by_path, replace_leaves

# Also PyTorch's own module may warn under the suite's strict filter.
from domino_jax.deploy import networks
from domino_jax.pytorch import state_dict
from domino_jax.pytorch.layouts import from_torch, tensors, to_torch
from domino_jax.trace.layers import find_layers

CLASSES = 11
NO_DROPOUT = {"dropout": 0.0}  # whose draws differ


def _ours(name, size, **options):
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = models.create(name, example=example, classes=CLASSES, seed=0, **options)
    axes = find_layers(
        lambda p, x: model.apply(p, model.stats, x, train=False, key=None)[0],
        model.params,
        example,
        2,
    )
    return model, axes


def _arrays(network):
    return {k: v.numpy() for k, v in network.state_dict().items()}


def _apart(found, expected):
    assert np.abs(expected).max() > 1e-2
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def _vgg(cfg):
    """torchvision's convolutions and norms, with the one linear layer of CIFAR's form."""
    vgg = torchvision.models.vgg
    network = vgg.VGG(vgg.make_layers(vgg.cfgs[cfg], batch_norm=True), init_weights=False)
    network.avgpool, network.classifier = torch.nn.Identity(), torch.nn.Linear(512, CLASSES)
    return network


def _theirs(name, **options):
    if name.startswith("vgg"):
        return _vgg({"vgg16_cifar": "D", "vgg19_cifar": "E"}[name])
    if name == "googlenet":
        options |= {"aux_logits": False, "init_weights": False}
    return torchvision.models.get_model(name, num_classes=CLASSES, **options)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("regnet_x_400mf", 64, {}),
        ("googlenet", 47, NO_DROPOUT),
        ("vgg16_cifar", 32, {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("regnet_x_800mf", 64, {}),
                ("regnet_x_1_6gf", 64, {}),
                ("regnet_x_3_2gf", 64, {}),
                ("googlenet", 64, {**NO_DROPOUT, "transform_input": True}),
                ("vgg19_cifar", 32, {}),
                ("resnet34", 64, {}),
            ]
        ),
    ],
)
def test_logits_in_training_and_evaluation(name, size, options):
    network = torch_state.randomize(_theirs(name, **options))
    model, axes = _ours(name, size, **options)
    layout = tensors(model.params, model.stats, axes)
    ours = from_torch(_arrays(network), layout)
    trees = [
        replace_leaves(tree, {path: ours[path] for path in leaves_by_path(tree)})
        for tree in model[1:]
    ]
    images = np.random.default_rng(3).normal(size=(8, size, size, 3)).astype(np.float32)

    @jax.jit
    def both(params, stats, x):
        trained, moved = model.apply(params, stats, x, train=True, key=None)
        return model.apply(params, stats, x, train=False, key=None)[0], trained, moved

    evaluated, trained, moved = both(*trees, images)
    x = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    with torch.no_grad():
        assert _apart(evaluated, network.eval()(x).numpy()) <= 1e-4
        assert _apart(trained, network.train()(x).numpy()) <= 1e-4
    after, new = _arrays(network), to_torch(leaves_by_path(moved), layout)
    assert len(new) == len(leaves_by_path(model.stats)) > 0
    assert max(_apart(value, after[key]) for key, value in new.items()) <= 1e-4


@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [("vit_ti16", 192, 3), pytest.param("vit_b16", 768, 12, marks=pytest.mark.slow)],
)
def test_logits_of_a_vision_transformer(name, width, heads):
    """Its class makes ViT-B/16 as `torchvision.models.vit_b_16` does, and smaller ones too."""
    network = torch_state.randomize(
        torchvision.models.VisionTransformer(
            32, 16, 12, heads, width, 4 * width, num_classes=CLASSES
        )
    )
    model, axes = _ours(name, 32)
    layout = tensors(model.params, model.stats, axes)
    ours = from_torch(_arrays(network), layout)
    params = replace_leaves(model.params, {path: ours[path] for path in leaves_by_path(model[1])})
    images = np.random.default_rng(3).normal(size=(4, 32, 32, 3)).astype(np.float32)
    found = jax.jit(lambda p, x: model.apply(p, {}, x, train=False, key=None)[0])(params, images)
    x = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    with torch.no_grad():
        assert _apart(found, network.eval()(x).numpy()) <= 1e-4
    back = to_torch(leaves_by_path(params), layout)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()})


@pytest.mark.parametrize("name", ["regnet_x_3_2gf", "googlenet", "vgg19_cifar", "resnet50"])
def test_what_goes_out_is_what_came_in(name):
    """Bit for bit, and torchvision's network takes it."""
    network = torch_state.randomize(_theirs(name))
    model, axes = _ours(name, 32)
    layout = tensors(model.params, model.stats, axes)
    before = _arrays(network)
    back = to_torch(from_torch(before, layout), layout)
    for key, value in back.items():
        assert value.tobytes() == before[key].tobytes(), key
    absent, unknown = network.load_state_dict(
        {k: torch.from_numpy(v) for k, v in back.items()}, strict=False
    )
    assert not unknown
    assert all(key.endswith("num_batches_tracked") for key in absent)


def test_a_googlenet_with_auxiliary_heads(tmp_path):
    """As torchvision's published file is: what starts with aux1 or aux2 is left out, no more."""
    whole = torchvision.models.googlenet(
        num_classes=CLASSES, aux_logits=True, init_weights=False, weights=None
    )
    state = torch_state.randomize(whole).state_dict()
    assert any(key.startswith("aux1.") for key in state)
    torch.save(state, tmp_path / "google.pth")
    model, axes = _ours("googlenet", 32)
    params, _ = state_dict.restore(tmp_path / "google.pth", model.params, model.stats, axes)
    kernel = state["inception5b.branch4.1.conv.weight"].numpy()
    found = params["inception5b"]["branch4"][1]["conv"]["kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
    torch.save({**state, "aux3.weight": torch.zeros(2)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"unexpected 'aux3\.weight' \(1 in all\)"):
        state_dict.restore(tmp_path / "more.pth", model.params, model.stats, axes)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("regnet_x_400mf", 32, {}),
        ("googlenet", 32, {"dropout": 0.5}),
        ("vit_ti16", 32, {}),
        ("resnet18", 32, {}),
    ],
)
def test_torch_models_makes_torchvisions(name, size, options):
    network = networks.create(
        name, classes=CLASSES, in_channels=2, image=(size, size), **options
    ).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 2, size, size)).shape == (2, CLASSES)
    if name == "vit_ti16":
        assert sum(p.numel() for p in network.parameters()) == 5_440_523
    else:
        theirs = _theirs(name, **options).state_dict()
        first = next(iter(theirs))
        shapes = {k: v.shape for k, v in network.state_dict().items()}
        different = {k for k, v in theirs.items() if shapes[k] != v.shape}
        assert (different, shapes.keys()) == ({first}, theirs.keys())


@pytest.mark.parametrize(("name", "size"), [("regnet_x_400mf", 32), ("googlenet", 32)])
def test_torchvisions_networks_folded(name, size):
    """Each norm is nothing, each convolution has a bias; folded weights give the same logits."""
    plain = torch_state.randomize(networks.create(name, classes=CLASSES)).eval()
    folded = networks.create(name, classes=CLASSES, folded=True).eval()
    count = sum(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    biases = [m.bias for m in folded.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(biases) == count > 50
    assert all(bias is not None for bias in biases)
    folded.load_state_dict(torch_state.folded_state(plain), strict=True)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert _apart(folded(images).numpy(), plain(images).numpy()) <= 1e-4


def test_a_vision_transformer_has_nothing_to_fold():
    with pytest.raises(ValueError, match="vit_ti16: has no batch norms that could be folded"):
        networks.create("vit_ti16", classes=3, image=(32, 32), folded=True)

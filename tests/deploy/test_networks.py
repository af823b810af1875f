"""PyTorch networks: torchvision names and numbers, ours in JAX, folded and CIFAR forms.

RegNetX, GoogLeNet and vision transformers are torchvision's own: test_torchvision.py.

`data/resnet_torch.npz` is torchvision's own forward pass; its recipe is in test_resnet.py. DIGESTS
are `_digest(torchvision.models.get_model(name).state_dict())` of torchvision 0.28.0.
"""

import hashlib
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_state

from domino_jax import models
from domino_jax.core import paths
from domino_jax.deploy import networks, torchvision_networks, vgg
from domino_jax.deploy.resnet_forms import FORMS
from domino_jax.models import byte_lm, convolutional, vit
from domino_jax.pytorch.layouts import torch_name

GOLDEN = Path(__file__).parents[1] / "data" / "resnet_torch.npz"
DIGESTS = {
    "resnet18": "5191d63ec3989592",
    "resnet34": "f8de2a1812ef85e4",
    "resnet50": "a87e91cd6bd1f939",
    "resnet101": "dbc3ca74fffafc72",
    "resnet152": "7d486dbdc941506e",
}


def _digest(state):
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _value(name, shape):
    """As the golden file's script drew the tensors."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if draw.ndim > 1:
        return draw * np.sqrt(2 * shape[1] / draw.size) if draw.ndim == 4 else draw
    return (1 if name.endswith(("weight", "running_var")) else 0) + 0.1 * draw


def _fill(model):
    state = model.state_dict()
    values = {
        name: torch.from_numpy(np.asarray(_value(name, tuple(tensor.shape))))
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
    model.load_state_dict(values, strict=False)
    return model


def _jax_tree(tree, model):
    """Fills params or stats with the values of a PyTorch model."""
    leaf_names = {"scale": "weight", "kernel": "weight", "mean": "running_mean"}
    state, values = model.state_dict(), {}
    for path, leaf in paths.leaves_by_path(tree).items():
        *owner, last = path.split("/")
        name = ".".join([*owner, (leaf_names | {"var": "running_var"}).get(last, last)])
        value = state[name].numpy()
        order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,))
        assert value.transpose(order).shape == leaf.shape
        values[path] = jnp.asarray(value.transpose(order))
    return paths.replace_leaves(tree, values)


@pytest.mark.parametrize("name", DIGESTS)
def test_names_and_shapes_are_torchvisions(name):
    with torch.device("meta"):
        model = networks.create(name, classes=1000)
    assert _digest(model.state_dict()) == DIGESTS[name]


def test_outputs_are_torchvisions():
    golden = np.load(GOLDEN)
    model = _fill(networks.create("resnet18", classes=5).double())
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 3, 37, 31)))
    with torch.no_grad():
        train = model.train()(inputs)
        moved = model.eval()(inputs)
    np.testing.assert_allclose(train.numpy(), golden["resnet18/train"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moved.numpy(), golden["resnet18/eval"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {}),
        ("resnet20", {"shortcut": "projection"}),
        ("resnet20", {"stem": "imagenet"}),
        ("resnet18", {"stem": "cifar", "shortcut": "pad"}),
        ("resnet56_bottleneck", {"shortcut": "pad"}),
    ],
)
def test_logits_are_those_of_the_network_in_jax(name, options):
    size, channels, classes = 19, 1, 7
    example = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    ours = models.create(name, example=example, classes=classes, seed=0, **options)
    theirs = _fill(networks.create(name, classes=classes, in_channels=channels, **options)).eval()
    inputs = np.random.default_rng(1).standard_normal((2, channels, size, size)).astype("float32")
    params, stats = (_jax_tree(tree, theirs) for tree in (ours.params, ours.stats))
    apply = jax.jit(lambda p, s, x: ours.apply(p, s, x, train=False, key=None)[0])
    found = np.asarray(apply(params, stats, jnp.asarray(inputs.transpose(0, 2, 3, 1))))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(inputs)).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    leaves = [*jax.tree.leaves(ours.params), *jax.tree.leaves(ours.stats)]
    counters = sum(tensor.ndim == 0 for tensor in theirs.state_dict().values())
    assert len(leaves) == len(theirs.state_dict()) - counters


def test_vgg_is_that_of_the_network_in_jax():
    """At 64x32 more than one position is left, over which both take the mean."""
    example = jax.ShapeDtypeStruct((1, 64, 32, 2), jnp.float32)
    ours = models.create("vgg16_cifar", example=example, classes=7, seed=0)
    theirs = _fill(networks.create("vgg16_cifar", classes=7, in_channels=2)).eval()
    inputs = np.random.default_rng(1).standard_normal((2, 2, 64, 32)).astype("float32")
    params, stats = (_jax_tree(tree, theirs) for tree in (ours.params, ours.stats))
    apply = jax.jit(lambda p, s, x: ours.apply(p, s, x, train=False, key=None)[0])
    found = np.asarray(apply(params, stats, jnp.asarray(inputs.transpose(0, 2, 3, 1))))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(inputs)).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_every_network_of_ours_is_here():
    """But causal_lm, whose twin is transformers' own: tests/pytorch/test_hugging_face."""
    assert set(networks.NAMES) == set(models.names()) - {"causal_lm"}


@pytest.mark.parametrize("name", [*FORMS, *vgg.DEPTHS])
def test_every_network_defined_here_is_made(name):
    with torch.device("meta"):
        *_, last = networks.create(name, classes=3).modules()
    assert last.out_features == 3


@pytest.mark.parametrize("error", [ImportError("No module named x"), RuntimeError("no op\nmore")])
@pytest.mark.parametrize("name", ["regnet_x_400mf", "googlenet", "vit_s16"])
def test_without_torchvision(name, error, monkeypatch):
    def absent(module):
        raise error

    monkeypatch.setattr(torchvision_networks, "import_module", absent)
    with pytest.raises(
        ValueError, match=rf"{name}.*: install one that fits this PyTorch$"
    ) as caught:
        networks.create(name, classes=3, image=(32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet20", 16), ("resnet50", 32), ("vgg16_cifar", 32)]
)
def test_folded_networks_have_biases_and_no_batch_norms(name, size):
    plain = _fill(networks.create(name, classes=4)).eval()
    folded = networks.create(name, classes=4, folded=True).eval()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    folded.load_state_dict(torch_state.folded_state(plain), strict=True)
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = plain(inputs)
        assert (folded(inputs) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_of_an_export():
    document = {
        "model": "resnet20",
        "model_options": {"shortcut": "projection"},
        "classes": 3,
        "in_channels": 2,
        "image": None,
        "folded": True,
    }
    state = networks.of_export(document).state_dict()
    assert state["conv1.weight"].shape == (16, 2, 3, 3)
    assert "conv1.bias" in state
    assert "layer2.0.downsample.0.weight" in state
    del document["folded"], document["image"]  # as older exports
    assert "conv1.bias" not in networks.of_export(document).state_dict()
    other = {**document, "model_options": {}}
    assert "layer1.8.bn1.weight" in networks.of_export(other, "resnet56").state_dict()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "model: expected one of resnet18, .* got 'resnet19'"),
        ("resnet18", {"stem": "big"}, "stem: expected one of imagenet, cifar, got 'big'"),
        ("resnet18", {"shortcut": "none"}, "shortcut: expected one of projection, pad, got 'none'"),
        ("resnet18", {"in_channels": 0}, "in_channels are 1 or more, got 2 and 0"),
        ("vit_s16", {}, "vit_s16: torchvision's takes square images .* patch 16, .* got None"),
        ("vit_s16", {"image": (32, 48)}, r"square images .*, got \(32, 48\)"),
        ("vit_s16", {"image": (32, 32), "patch": 5}, "a multiple of the patch 5"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        networks.create(name, classes=2, **options)


def _shapes_in_jax(name, monkeypatch):
    """Returns the shape that PyTorch gives each leaf of our network, by PyTorch's name."""
    for module in (convolutional, byte_lm, vit):
        monkeypatch.setattr(module, "fill", lambda shapes, *_: shapes)
    shape, dtype = ((1, 8), jnp.uint8) if name == "byte_lm" else ((1, 32, 32, 3), jnp.float32)
    example = jax.ShapeDtypeStruct(shape, dtype)
    model = models.factory(name)(example=example, classes=7, seed=0)
    leaves = paths.leaves_by_path(model.params) | paths.leaves_by_path(model.stats)
    found = {}
    for path, leaf in leaves.items():
        kernel = path.endswith("kernel")
        *window, inputs, outputs = leaf.shape if kernel else (0, 0)
        found[torch_name(path)] = (outputs, inputs, *window) if kernel else leaf.shape
    return found


@pytest.mark.parametrize("name", networks.NAMES)
def test_names_and_shapes_are_those_of_the_network_in_jax(name, monkeypatch):
    """Depths and widths are written down there and here."""
    # The widths of RegNets are computed in tensors.
    device = "cpu" if name in torchvision_networks.REGNETS else "meta"
    with torch.device(device):
        network = networks.create(name, classes=7, image=(32, 32), positions=8)
    state = network.state_dict().items()
    there = {key: tuple(value.shape) for key, value in state if "num_batches" not in key}
    assert there == _shapes_in_jax(name, monkeypatch)


def test_tables_are_those_of_the_networks_in_jax():
    """What no shape shows: heads, and whether a shortcut pads."""
    for name, form in FORMS.items():
        assert models.factory(name).args[0] == form, name
    forms = {name: models.factory(name).args[0] for name in torchvision_networks.VITS}
    assert {
        name: (form.width, form.heads) for name, form in forms.items()
    } == torchvision_networks.VITS
    assert {form.depth for form in forms.values()} == {12}

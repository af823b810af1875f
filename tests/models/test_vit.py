"""Vision transformers: published counts, PyTorch's weights both ways, and what is refused."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from domino_jax import models
from domino_jax.core.canonical import Axes
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import NM
from domino_jax.models import vit
from domino_jax.pytorch import exported, state_dict
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.layouts import tensors, to_torch
from domino_jax.pytorch.writer import export as write
from domino_jax.trace.layers import find_layers

TORCHVISION = json.loads(
    (Path(__file__).parents[1] / "data" / "torchvision_vit_b_16.json").read_text(encoding="utf-8")
)
SIZE, PATCH, CHANNELS, CLASSES = 16, 4, 3, 10
DEPTH, WIDTH, HEADS = 12, 192, 3  # of vit_ti16


def _images(count, size=SIZE):
    x = np.random.default_rng(3).normal(size=(count, size, size, CHANNELS))
    return x.astype(np.float32)


def _forward(model):
    return lambda params, x: model.apply(params, model.stats, x, train=False, key=None)[0]


def _example(size=SIZE, channels=CHANNELS):
    return jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)


def _tiny(**options):
    given = {"example": _example(), "classes": CLASSES, "seed": 1, "patch": PATCH} | options
    return models.create("vit_ti16", **given)


def _abstract(name, size=224, classes=1000):
    """The published form, its layers, and no weights."""
    form, example = getattr(vit, name).args[0], _example(size)
    image = tuple(example.shape[1:])
    module = nnx.eval_shape(lambda: vit.VisionTransformer(form, image, classes, patch=16))
    model = models.from_nnx(module)
    return model, example


def test_layers_and_axes():
    model, example = _abstract("vit_b16")
    layers = {s.name: s for s in find_layers(_forward(model), model.params, example, 4)}
    packed = layers["encoder/layers/encoder_layer_3/self_attention/in_proj_kernel"]
    assert packed.shape == (768, 2304)
    assert (packed.roles, packed.candidates) == (Axes((), (), (0,), (1,)), (1, 2, 4))
    assert {name: s.reason for name, s in layers.items() if s.reason} == {
        "conv_proj/kernel": "input size 3 is no multiple of 4",
        "class_token": "goes into concatenate",
        "encoder/pos_embedding": "goes into add",
    }
    order = [name.removeprefix("encoder/layers/") for name in layers]
    assert order[:6] == [
        "conv_proj/kernel",
        "encoder_layer_0/self_attention/in_proj_kernel",
        "encoder_layer_0/self_attention/out_proj/kernel",
        "encoder_layer_0/mlp/0/kernel",
        "encoder_layer_0/mlp/3/kernel",
        "encoder_layer_1/self_attention/in_proj_kernel",
    ]
    assert order[-3] == "heads/head/kernel"


def test_every_name_and_shape_of_torchvision():
    model, example = _abstract("vit_b16")
    axes = find_layers(_forward(model), model.params, example, 2)
    layout = tensors(model.params, model.stats, axes)
    assert {t.name: "x".join(map(str, t.shape)) for t in layout} == TORCHVISION


@pytest.fixture(scope="module")
def pair():
    """Ours, its axes, and PyTorch's network of other, random weights."""
    import torch_vit  # noqa: PLC0415

    model = _tiny()
    sizes = {"size": SIZE, "patch": PATCH, "channels": CHANNELS, "classes": CLASSES}
    network = torch_vit.randomize(torch_vit.Vit(WIDTH, DEPTH, HEADS, **sizes))
    return model, find_layers(_forward(model), model.params, _example(), 2), network


def _arrays(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def _torch_logits(network, images):
    import torch  # noqa: PLC0415

    with torch.no_grad():
        return network(torch.from_numpy(np.moveaxis(images, 3, 1).copy())).numpy()


@pytest.fixture(scope="module")
def imported(tmp_path_factory, pair):
    """The params of PyTorch's network."""
    path = tmp_path_factory.mktemp("vit") / "w.safetensors"
    safetensors.numpy.save_file(_arrays(pair[2]), path)
    params, stats = state_dict.restore(path, pair[0].params, pair[0].stats, pair[1])
    assert stats == {}
    return jax.tree.map(jnp.asarray, params)


def test_logits_of_pytorchs_weights(pair, imported):
    model, _, network = pair
    expected = _torch_logits(network, _images(4))
    found = np.asarray(jax.jit(_forward(model))(imported, _images(4)))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    packed = imported["encoder"]["layers"]["encoder_layer_5"]["self_attention"]["in_proj_kernel"]
    theirs = network.state_dict()["encoder.layers.encoder_layer_5.self_attention.in_proj_weight"]
    np.testing.assert_array_equal(packed, theirs.numpy().T)


def test_round_trip_is_bit_identical(pair, imported):
    model, axes, network = pair
    back = to_torch(leaves_by_path(imported), tensors(imported, model.stats, axes))
    before = _arrays(network)
    assert back.keys() == before.keys()
    for name, value in before.items():
        assert back[name].tobytes() == value.tobytes(), name


def test_files_with_the_names_of_the_published_checkpoints(tmp_path, pair, imported):
    """vit_b_16-c867db91.pth has mlp.linear_1 and mlp.linear_2."""
    model, axes, network = pair
    old = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for name, value in _arrays(network).items()
    }
    assert not any(".mlp.0." in name for name in old)
    path = tmp_path / "old.safetensors"
    safetensors.numpy.save_file(old, path)
    params, _ = state_dict.restore(path, model.params, model.stats, axes)
    jax.tree.map(np.testing.assert_array_equal, params, imported)
    both = old | {"encoder.layers.encoder_layer_0.mlp.0.bias": np.zeros(4 * WIDTH, np.float32)}
    safetensors.numpy.save_file(both, path)
    with pytest.raises(ValueError, match=r"unexpected .*encoder_layer_0\.mlp\.linear_1\.bias"):
        state_dict.restore(path, model.params, model.stats, axes)


def test_a_checkpoint_of_another_image_size(tmp_path, pair):
    """Positions are interpolated as torchvision's own function does, and nothing else changes."""
    from collections import OrderedDict  # noqa: PLC0415

    from torchvision.models.vision_transformer import interpolate_embeddings  # noqa: PLC0415

    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(_arrays(pair[2]), path)
    for size in (4, 8, 12, 20, 32):
        model, told = _tiny(example=_example(size)), []
        params, _ = state_dict.restore(path, model.params, model.stats, pair[1], say=told.append)
        state = OrderedDict(pair[2].state_dict())
        theirs = interpolate_embeddings(size, PATCH, state)["encoder.pos_embedding"].numpy()
        assert theirs.shape == (1, (size // PATCH) ** 2 + 1, WIDTH)
        own = params["encoder"]["pos_embedding"]
        np.testing.assert_allclose(own, theirs, rtol=0, atol=1e-6)
        assert told == [
            f"{path}: the positions of 16 patches were interpolated to {(size // PATCH) ** 2}, for "
            "images of another size"
        ]
        kernel = pair[2].heads.head.weight.detach().numpy().T
        np.testing.assert_array_equal(params["heads"]["head"]["kernel"], kernel)
    with pytest.raises(ValueError, match="expected images of 16 patches, got 64"):
        jax.eval_shape(_forward(pair[0]), pair[0].params, _images(1, 32))


def test_positions_of_images_that_are_not_square_are_refused(tmp_path, pair):
    model = _tiny(example=jax.ShapeDtypeStruct((1, 16, 8, 3), jnp.float32))
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(_arrays(pair[2]), path)
    message = r"w\.safetensors: 'encoder\.pos_embedding': .* between square images, .* got 9: give"
    with pytest.raises(ValueError, match=message) as caught:
        state_dict.restore(path, model.params, model.stats, pair[1])
    assert "\n" not in str(caught.value)


def _sparse(pair, imported, cycle):
    """The imported network with layer i pruned to cycle[i % len] of 4."""
    model = pair[0]
    layers = find_layers(_forward(model), imported, _example(), 4)
    found = {s.name: NM(cycle[i % len(cycle)], 4) for i, s in enumerate(grouped(layers))}
    levels = n_by_path(found, layers)
    params = jax.jit(lambda p: hard_mask(p, layers, levels))(imported)
    options = {"patch": PATCH}
    model = model._replace(params=params)
    return Network("vit_ti16", options, model, layers, found, _images(6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pair, imported):
    out = tmp_path_factory.mktemp("export") / "out"
    write(_sparse(pair, imported, (2, 1, 4, 2, 2)), out, dtype="float16")
    return out


def test_export_prunes_the_packed_projection_along_its_inputs(folder):
    document = exported.check(folder)
    entry = document["layers"]["encoder.layers.encoder_layer_0.self_attention"]
    assert entry["weight"] == "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert (entry["n"], entry["m"], entry["sparse24"], entry["why"]) == (2, 4, True, "")
    assert (entry["kind"], entry["shape"]) == ("linear", [3 * WIDTH, WIDTH])
    weight = exported.read_arrays(folder / exported.WEIGHTS)[entry["weight"]]
    kept = (weight.reshape(3 * WIDTH, WIDTH // 4, 4) != 0).sum(2)
    np.testing.assert_array_equal(kept, 2)
    across = (weight.T.reshape(WIDTH, 3 * WIDTH // 4, 4) != 0).sum(2)
    assert across.max() > 2
    output = document["layers"]["encoder.layers.encoder_layer_0.self_attention.out_proj"]
    assert (output["n"], output["sparse24"]) == (1, True)
    assert document["layers"]["conv_proj"]["reason"] == "input size 3 is no multiple of 4"


def test_export_runs_in_pytorch_with_its_attention_split(folder, pair):
    import copy  # noqa: PLC0415

    import torch  # noqa: PLC0415
    import torch_export  # noqa: PLC0415

    from domino_jax.deploy import attention as torch_attention  # noqa: PLC0415
    from domino_jax.deploy import folder as folders  # noqa: PLC0415
    from domino_jax.deploy import packing, runtime  # noqa: PLC0415

    backends = [torch_export.ROUND_TRIP]
    stored = torch_export.stored_logits(folder)
    whole = folders.put(
        copy.deepcopy(pair[2]), folders.read_folder(folder), torch_export.CPU, torch.float32
    )
    apart = (torch_export.logits_of(whole, folder) - stored).abs().max()
    assert apart <= 1e-4 * stored.abs().max()
    model = runtime.load(copy.deepcopy(pair[2]), folder, "cpu", torch.float16, backends=backends)
    attention = model.encoder.layers["encoder_layer_0"].self_attention
    assert isinstance(attention, torch_attention.Attention)
    assert isinstance(attention.in_proj, packing.SparseLinear)
    levels = [entry["n"] for entry in exported.read_document(folder)["layers"].values()]
    packed = [m for m in model.modules() if isinstance(m, packing.SparseLinear)]
    # The head has 10 rows, which no kernel takes without much padding.
    assert len(packed) == sum(n < 4 for n in levels[1:-1])
    apart = (torch_export.logits_of(model, folder, torch.float16) - stored).abs().max()
    assert apart <= 1e-2 * stored.abs().max()


def test_bfloat16_computes_low_and_keeps_params_and_logits_float32(pair, imported):
    low = _tiny(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype("float32")}
    wide = np.asarray(jax.jit(_forward(pair[0]))(imported, _images(4)))
    found = jax.jit(_forward(low))(imported, _images(4))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(found) - wide).max() < 0.1 * np.abs(wide).max()
    jaxpr = jax.make_jaxpr(_forward(low))(low.params, _images(1)).jaxpr
    products = [e.outvars[0].aval.dtype for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert set(products) == {jnp.dtype("bfloat16")}


def test_fresh_weights_have_torchvisions_distributions():
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(_tiny().params).items()}
    inside = "encoder/layers/encoder_layer_7/"
    bound = math.sqrt(6 / (4 * WIDTH))  # Glorot over the packed shape
    for path, largest in {
        "self_attention/in_proj_kernel": bound,
        "self_attention/out_proj/kernel": WIDTH**-0.5,
        "mlp/0/kernel": math.sqrt(6 / (5 * WIDTH)),
    }.items():
        assert 0.99 * largest < np.abs(leaves[inside + path]).max() <= largest, path
    patches = leaves["conv_proj/kernel"]
    std = math.sqrt(1 / (CHANNELS * PATCH**2))
    # torchvision's trunc_normal_ cuts at ±2 itself, which no draw of this deviation comes near.
    assert abs(patches.std() / std - 1) < 0.03
    assert 3 * std < np.abs(patches).max() < 2
    assert abs(leaves["encoder/pos_embedding"].std() / 0.02 - 1) < 0.05
    assert 0 < np.abs(leaves[inside + "mlp/3/bias"]).max() < 1e-5
    for path in ("class_token", "heads/head/kernel", "conv_proj/bias"):
        np.testing.assert_array_equal(leaves[path], 0, err_msg=path)
    for path in ("self_attention/in_proj_bias", "self_attention/out_proj/bias", "ln_1/bias"):
        np.testing.assert_array_equal(leaves[inside + path], 0, err_msg=path)
    np.testing.assert_array_equal(leaves["encoder/ln/scale"], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, r"rows and columns multiples of its patch 5, got \(1, 16, 16, 3\)"),
        ({"patch": 0}, "patch must be a positive integer, got 0"),
        ({"classes": -3}, "classes must be a positive integer, got -3"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"example": _example(8), "patch": 16}, r"patch 16, got \(1, 8, 8, 3\)"),
        ({"example": jax.ShapeDtypeStruct((1, 9), jnp.float32)}, r"got \(1, 9\)"),
        ({"example": [_example(), _example()]}, r"got \(1, 16, 16, 3\), \(1, 16, 16, 3\)"),
        ({"heads": 2}, "unexpected keyword argument 'heads'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        _tiny(**options)
    assert "\n" not in str(caught.value)

"""Names and layouts: by hand, against torchvision's state dicts, there and back.

`data/torchvision_resnets.json` holds name -> shape of `torchvision.models.resnet18().state_dict()`
and of the other four, torchvision 0.28.0.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax import models
from domino_jax.core.canonical import Axes
from domino_jax.core.layers import LayerSpec
from domino_jax.models import resnet
from domino_jax.pytorch.layouts import (
    counters,
    from_torch,
    plain_tensors,
    tensors,
    to_torch,
    torch_name,
)
from domino_jax.trace.layers import find_layers

TORCHVISION = json.loads(
    (Path(__file__).parents[1] / "data" / "torchvision_resnets.json").read_text(encoding="utf-8")
)
CONV, MATRIX = Axes((), (0, 1), (2,), (3,)), Axes((), (), (0,), (1,))


def _layer(name, shape, roles, **parts):
    return LayerSpec(name, shape, roles, 0, reason="by hand", **parts)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layer1/0/conv1/kernel", "layer1.0.conv1.weight"),
        ("bn1/scale", "bn1.weight"),
        ("bn1/bias", "bn1.bias"),
        ("layer2/0/downsample/1/mean", "layer2.0.downsample.1.running_mean"),
        ("bn1/var", "bn1.running_var"),
        ("tokens/embedding", "tokens.weight"),
        ("class_token", "class_token"),
        ("a/self_attention/in_proj_kernel", "a.self_attention.in_proj_weight"),
        ("a/self_attention/in_proj_bias", "a.self_attention.in_proj_bias"),
        ("kernel", "weight"),
    ],
)
def test_names_by_hand(path, name):
    assert torch_name(path) == name


def test_layouts_by_hand():
    conv = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"conv": {"kernel": conv}, "fc": {"kernel": matrix, "bias": np.zeros(3)}}
    layout = tensors(
        params, {}, [_layer("conv/kernel", conv.shape, CONV), _layer("fc/kernel", (2, 3), MATRIX)]
    )
    arrays = to_torch({"conv/kernel": conv, "fc/kernel": matrix}, layout)
    assert arrays["conv.weight"].shape == (5, 4, 2, 3)
    assert arrays["conv.weight"][4, 3, 1, 2] == conv[1, 2, 3, 4]
    assert arrays["conv.weight"][1, 0, 0, 0] == conv[0, 0, 0, 1]
    np.testing.assert_array_equal(arrays["fc.weight"], [[0, 3], [1, 4], [2, 5]])
    assert all(array.flags.c_contiguous for array in arrays.values())
    by_name = {t.name: t for t in layout}
    assert by_name["conv.weight"].axes == Axes((), (2, 3), (1,), (0,))
    assert by_name["fc.bias"].axes is None


def _abstract(name):
    form = getattr(resnet, name).args[0]
    model = models.from_nnx(nnx.eval_shape(lambda: resnet.ResNet(form, 3, 1000)))
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), model.stats)
    inputs = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    axes = find_layers(
        lambda p, x: model.apply(p, stats, x, train=False, key=None)[0], model.params, inputs, 2
    )
    return model, tensors(model.params, model.stats, axes)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_name_and_shape_of_torchvision(name):
    _, layout = _abstract(name)
    found = {t.name: "x".join(map(str, t.shape)) for t in layout}
    found |= dict.fromkeys(counters(layout), "")
    assert found == TORCHVISION[name]


def test_there_and_back_bit_for_bit():
    _, layout = _abstract("resnet18")
    rng = np.random.default_rng(0)
    bits = {t.name: rng.integers(0, 2**32, t.shape, np.uint32) for t in layout}
    back = to_torch(from_torch(bits, layout), layout)
    assert back.keys() == bits.keys()
    for name, array in bits.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_rules_do_not_hide_the_window():
    """A stem of 3 channels has groups for no M that a run would take; its axes are known still."""
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)

    def apply(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", None, None, dims)

    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    layers = find_layers(apply, {"kernel": kernel}, images, 4, (("kernel", "flatten"),))
    (tensor,) = tensors({"kernel": kernel}, {}, layers)
    assert (tensor.order, tensor.shape) == ((3, 2, 0, 1), (8, 3, 3, 3))


def test_transposed_and_reversed_kernels_by_hand():
    """PyTorch keeps a transposed kernel as (inputs, outputs, window), the window backwards."""
    kernel = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)  # W, I, O
    roles = Axes((), (0,), (1,), (2,))
    for layer, there in (
        (_layer("kernel", kernel.shape, roles), kernel.transpose(2, 1, 0)),
        (_layer("kernel", kernel.shape, roles, flipped=(0,)), kernel[::-1].transpose(2, 1, 0)),
        (
            _layer("kernel", kernel.shape, roles, transposed=True),
            kernel[::-1].transpose(1, 2, 0),
        ),
        (
            _layer("kernel", kernel.shape, roles, transposed=True, flipped=(0,)),
            kernel.transpose(1, 2, 0),
        ),
    ):
        layout = tensors({"kernel": kernel}, {}, [layer])
        arrays = to_torch({"kernel": kernel}, layout)
        np.testing.assert_array_equal(arrays["weight"], there)
        assert arrays["weight"].flags.c_contiguous
        np.testing.assert_array_equal(from_torch(arrays, layout)["kernel"], kernel)


def test_refusals():
    scale = np.ones(3)
    with pytest.raises(ValueError, match=r"a/scale and a/kernel are both named 'a\.weight'"):
        tensors(
            {"a": {"kernel": np.ones((2, 3)), "scale": scale}},
            {},
            [_layer("a/kernel", (2, 3), MATRIX)],
        )
    stacked = Axes((0,), (), (1,), (2,))
    with pytest.raises(ValueError, match="w: PyTorch has no layout for stacked kernels"):
        tensors({"w": np.ones((2, 3, 4))}, {}, [_layer("w#0", (3, 4), stacked)])
    unclear = _layer("w", (2, 3), MATRIX, flipped=None)
    with pytest.raises(ValueError, match="w: PyTorch has no layout for a kernel that is also read"):
        tensors({"w": np.ones((2, 3))}, {}, [unclear])
    (plain,) = plain_tensors({"w": np.ones((2, 3, 4))}, {}, [_layer("w#0", (3, 4), stacked)])
    assert (plain.name, plain.order, plain.axes) == ("w", (0, 1, 2), stacked)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (lambda path: None, "expected a name for PyTorch, a string, got None"),
        (lambda path: "", "expected a name for PyTorch, a string, got ''"),
        ({"other": "x"}.__getitem__, "expected a name for PyTorch, got KeyError: 'a/bias'"),
        (lambda path: "x", r"a/kernel and a/bias are both named 'x' for PyTorch; give each a name"),
    ],
)
def test_names_of_a_user_that_are_none(names, words):
    leaves = {"a": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}}
    with pytest.raises(ValueError, match=words) as caught:
        tensors(leaves, {}, [], names)
    assert "\n" not in str(caught.value)

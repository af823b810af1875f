"""Residual networks: sizes, PyTorch's numbers, batch norm by hand, dtypes and weights.

`data/resnet_torch.npz` comes from PyTorch 2.13.0 and torchvision 0.28.0 in float64:

    for case, (net, x) in {
        'norm': (torch.nn.BatchNorm2d(3), images(4, 3, 3, 2) * 2 + 5),
        'basic': (BasicBlock(3, 4, 2, down(3, 4)), images(2, 3, 7, 6)),
        'bottleneck': (Bottleneck(6, 2, 2, down(6, 8)), images(2, 6, 7, 6)),
        'resnet18': (torchvision.models.resnet18(num_classes=5), images(3, 3, 37, 31))}.items():
        set_every_value(net)  # to _torch_value(torch name, torch shape) below
        net.train(); out[f'{case}/train'] = net(x)
        net.eval(); out[f'{case}/eval'] = net(x)   # with the moved running statistics
        out[f'{case}/{name}'] = …                  # running statistics after the training call

where `down` is a 1x1 convolution of stride 2 and a BatchNorm2d, and images(*shape) is
np.random.default_rng(0).standard_normal(shape). Of resnet18 only two norms' statistics are there.
"""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from traced import equations

from domino_jax import models
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.models import resnet
from domino_jax.models.batch_norm import BatchNorm
from domino_jax.models.initial import fill

GOLDEN = Path(__file__).parents[1] / "data" / "resnet_torch.npz"
FIRST_WEIGHTS = [0.034534622, -0.032669861, -0.04164239]
TORCH_NAMES = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}


def _shapes(form: resnet.Form, channels: int, classes: int) -> models.Model:
    return models.from_nnx(nnx.eval_shape(lambda: resnet.ResNet(form, channels, classes)))


def _form(name: str) -> resnet.Form:
    return getattr(resnet, name).args[0]


def _sizes(model: models.Model) -> tuple[int, int]:
    """Counts all parameters and the weights of convolutions."""
    sizes = [(leaf.size, leaf.ndim) for leaf in jax.tree.leaves(model.params)]
    return sum(size for size, _ in sizes), sum(size for size, ndim in sizes if ndim == 4)


def _products(model: models.Model, size: int) -> list[tuple[tuple[int, ...], int]]:
    """Lists kernel shape and MACs of each convolution and matrix product, in order of use."""
    inputs = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    trace = jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x, train=False, key=None)[0])(
        model.params, model.stats, inputs
    )
    found = []
    for equation in equations(trace):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            kernel = equation.invars[1].aval
            outputs = equation.outvars[0].aval
            found.append((kernel.shape, outputs.size * kernel.size // kernel.shape[-1]))
    assert len(found) == sum(path.endswith("kernel") for path in leaves_by_path(model.params))
    return found


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # torchvision's documentation
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_imagenet_sizes(name, parameters):
    assert _sizes(_shapes(_form(name), 3, 1000))[0] == parameters


@pytest.mark.parametrize(
    ("name", "weights"),
    [  # 432 + 16·144·2d + (16 + 32·(2d−1))·288 + (32 + 64·(2d−1))·576 for d blocks a stage
        ("resnet20", 267_696),
        ("resnet32", 461_232),
        ("resnet44", 654_768),
        ("resnet56", 848_304),
        ("resnet110", 1_719_216),
        ("resnet56_bottleneck", 853_936),  # the paper's 0.85 M
    ],
)
def test_cifar_convolution_weights(name, weights):
    assert _sizes(_shapes(_form(name), 3, 100))[1] == weights


@pytest.mark.parametrize(
    ("name", "size", "classes", "macs"),
    [
        ("resnet18", 224, 1000, 1_814_073_344),
        ("resnet50", 224, 1000, 4_089_184_256),
        ("resnet56", 32, 100, 125_491_456),
        ("resnet56_bottleneck", 32, 100, 127_345_664),
    ],
)
def test_macs(name, size, classes, macs):
    products = _products(_shapes(_form(name), 3, classes), size)
    assert sum(count for _, count in products) == macs


def test_projection_instead_of_padding_costs_two_products():
    form = resnet.Form(False, (9, 9, 9), (16, 32, 64), "cifar", "projection")
    products = _products(_shapes(form, 3, 100), 32)
    assert sum(count for _, count in products) == 125_491_456 + 2 * 131_072


def test_order_of_use_is_the_published_one():
    deep = [shape for shape, _ in _products(_shapes(_form("resnet50"), 3, 10), 64)]
    first = [(7, 7, 3, 64), (1, 1, 64, 64), (3, 3, 64, 64), (1, 1, 64, 256), (1, 1, 64, 256)]
    assert deep[:6] == [*first, (1, 1, 256, 64)]
    assert deep[11:15] == [(1, 1, 256, 128), (3, 3, 128, 128), (1, 1, 128, 512), (1, 1, 256, 512)]
    shallow = [shape for shape, _ in _products(_shapes(_form("resnet18"), 3, 10), 64)]
    assert shallow[5:8] == [(3, 3, 64, 128), (3, 3, 128, 128), (1, 1, 64, 128)]


def test_paths_are_torchvisions():
    paths = leaves_by_path(_shapes(_form("resnet50"), 3, 10).params)
    assert {"conv1/kernel", "bn1/scale", "layer1/0/conv1/kernel", "fc/kernel", "fc/bias"} <= {
        *paths
    }
    assert paths["layer2/0/downsample/0/kernel"].shape == (1, 1, 256, 512)
    assert paths["layer2/0/downsample/1/scale"].shape == (512,)
    assert "layer4/2/bn3/bias" in paths
    assert "layer1/1/downsample/0/kernel" not in paths


def test_batch_norm_by_hand():
    """Channel of values 1, 2, 3, 6: mean 3, biased variance 3.5, unbiased 14/3."""
    model = models.from_nnx(BatchNorm(1))
    x = jnp.asarray([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    params = {"scale": jnp.asarray([2.0]), "bias": jnp.asarray([0.5])}
    outputs, stats = model.apply(params, model.stats, x, train=True, key=None)
    expected = 2 * np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + 1e-5) + 0.5
    np.testing.assert_allclose(np.ravel(outputs), expected, rtol=1e-6)
    np.testing.assert_allclose(stats["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [0.9 + 1.4 / 3], rtol=1e-6)
    outputs, after = model.apply(params, stats, x, train=False, key=None)
    expected = 2 * (np.array([1, 2, 3, 6]) - 0.3) / np.sqrt(0.9 + 1.4 / 3 + 1e-5) + 0.5
    np.testing.assert_allclose(np.ravel(outputs), expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, stats)


def test_batch_norm_survives_a_mean_far_from_zero():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 3)) + 3000).astype(np.float32)
    model = models.from_nnx(BatchNorm(3))
    outputs, _ = model.apply(model.params, model.stats, jnp.asarray(x), train=True, key=None)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(outputs, expected, atol=2e-3)


def test_batch_norm_statistics_of_a_sharded_batch_are_global():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32)
    x[2:] += 5
    model = models.from_nnx(BatchNorm(2))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    call = jax.jit(lambda x: model.apply(model.params, model.stats, x, train=True, key=None))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=0, atol=1e-6),
        call(sharded),
        call(jnp.asarray(x)),
    )


def test_batch_norm_refuses():
    model = models.from_nnx(BatchNorm(2))
    with pytest.raises(ValueError, match=r"more than one value .* shape \(1, 1, 1, 2\)"):
        model.apply(model.params, model.stats, jnp.ones((1, 1, 1, 2)), train=True, key=None)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.stats)
    with pytest.raises(ValueError, match="float32 inputs with bfloat16 running statistics"):
        model.apply(model.params, low, jnp.ones((2, 2)), train=False, key=None)


def _torch_name(path: str) -> str:
    owner, _, leaf = path.rpartition("/")
    return ".".join([*owner.split("/"), TORCH_NAMES.get(leaf, leaf)]).lstrip(".")


def _torch_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws the value of one PyTorch tensor (OIHW, OI), as the golden file's script did."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if draw.ndim > 1:
        return draw * np.sqrt(2 * shape[1] / draw.size) if draw.ndim == 4 else draw
    return (1 if name.endswith(("weight", "running_var")) else 0) + 0.1 * draw


def _from_torch(tree):
    """Fills params or stats with `_torch_value`, in JAX's layouts (HWIO, IO) and float64."""
    values = {}
    for path, leaf in leaves_by_path(tree).items():
        back = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(leaf.shape), (0,))
        forth = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(leaf.shape), (0,))
        value = _torch_value(_torch_name(path), tuple(leaf.shape[axis] for axis in back))
        values[path] = jnp.asarray(value.transpose(forth))
    return replace_leaves(tree, values)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


@pytest.mark.parametrize(
    ("case", "make", "shape"),
    [
        ("norm", lambda: BatchNorm(3), (4, 3, 3, 2)),
        (
            "basic",
            lambda: resnet.BasicBlock(3, 4, stride=2, project=True, dtype=None),
            (2, 3, 7, 6),
        ),
        (
            "bottleneck",
            lambda: resnet.Bottleneck(6, 2, stride=2, project=True, dtype=None),
            (2, 6, 7, 6),
        ),
        ("resnet18", lambda: resnet.ResNet(_form("resnet18"), 3, 5), (3, 3, 37, 31)),
    ],
)
def test_against_torch(case, make, shape):
    """Forward passes and running statistics agree to float64's last digits."""
    golden = {
        name[len(case) + 1 :]: v for name, v in np.load(GOLDEN).items() if name.startswith(case)
    }
    x = np.random.default_rng(0).standard_normal(shape) * (2 if case == "norm" else 1)
    x += 5 if case == "norm" else 0
    model = models.from_nnx(nnx.eval_shape(make))
    call = jax.jit(model.apply, static_argnames="train")
    with jax.enable_x64(True):
        inputs = jnp.asarray(_channels_last(x))
        params, stats = _from_torch(model.params), _from_torch(model.stats)
        trained, stats = call(params, stats, inputs, train=True, key=None)
        evaluated, _ = call(params, stats, inputs, train=False, key=None)
        assert trained.dtype == jnp.float64
    np.testing.assert_allclose(trained, _channels_last(golden.pop("train")), rtol=0, atol=1e-11)
    np.testing.assert_allclose(evaluated, _channels_last(golden.pop("eval")), rtol=0, atol=1e-11)
    moved = {_torch_name(path): value for path, value in leaves_by_path(stats).items()}
    assert len(golden) >= 2
    for name, value in golden.items():
        np.testing.assert_allclose(moved[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_pad_shortcut_by_hand():
    """Every second position, and the new channels zero on both sides."""
    x = jnp.arange(1.0, 19.0).reshape(1, 3, 3, 2)
    y = resnet._shortcut(None, x, channels=4, stride=2)
    zeros = np.zeros((2, 2))
    np.testing.assert_array_equal(y[0, ..., 0], zeros)
    np.testing.assert_array_equal(y[0, ..., 1], [[1, 5], [13, 17]])
    np.testing.assert_array_equal(y[0, ..., 2], [[2, 6], [14, 18]])
    np.testing.assert_array_equal(y[0, ..., 3], zeros)


def _small(seed: int = 0, **options) -> models.Model:
    example = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    return models.create("resnet20", example=example, classes=3, seed=seed, **options)


def _images(batch: int = 4) -> jax.Array:
    x = np.random.default_rng(5).standard_normal((batch, 8, 8, 1))
    return jnp.asarray(x, jnp.float32)


def test_forward_and_train_mode():
    model = _small()
    call = jax.jit(model.apply, static_argnames="train")
    logits, stats = call(model.params, model.stats, _images(), train=True, key=None)
    assert logits.shape == (4, 3)
    assert logits.dtype == jnp.float32
    old, new = leaves_by_path(model.stats), leaves_by_path(stats)
    assert old.keys() == new.keys()
    assert all(np.all(np.asarray(old[path]) != np.asarray(new[path])) for path in old)
    again, kept = call(model.params, stats, _images(), train=False, key=None)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    assert np.any(np.asarray(again) != np.asarray(logits))


def test_bfloat16_computes_low_and_keeps_state_and_logits_float32():
    model, wide = _small(dtype="bfloat16"), _small()
    assert {leaf.dtype for leaf in jax.tree.leaves(model[1:])} == {jnp.dtype("float32")}

    def call(model, x):
        return model.apply(model.params, model.stats, x, train=True, key=None)

    low, stats = jax.jit(lambda x: call(model, x))(_images())
    high, _ = jax.jit(lambda x: call(wide, x))(_images())
    assert low.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(low, high, atol=0.1)
    assert np.any(np.asarray(low) != np.asarray(high))
    convolutions = [
        equation.outvars[0].aval.dtype
        for equation in equations(jax.make_jaxpr(lambda x: call(model, x))(_images()))
        if equation.primitive.name == "conv_general_dilated"
    ]
    assert convolutions == [jnp.bfloat16] * 19


def test_options_change_stem_and_shortcut():
    example = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    model = models.create("resnet18", example=example, classes=3, seed=0, stem="cifar")
    assert model.params["conv1"]["kernel"].shape == (3, 3, 1, 64)
    assert "downsample" not in _small().params["layer2"][0]
    assert "downsample" in _small(shortcut="projection").params["layer2"][0]


def test_weights_depend_on_seed_and_path_alone():
    one, same, other = _small(0), _small(0), _small(1)
    jax.tree.map(np.testing.assert_array_equal, one.params, same.params)
    kernel = np.asarray(one.params["conv1"]["kernel"])
    assert np.any(kernel != np.asarray(other.params["conv1"]["kernel"]))
    alone = fill({"conv1": {"kernel": jax.ShapeDtypeStruct(kernel.shape, jnp.float32)}}, 0)
    np.testing.assert_array_equal(alone["conv1"]["kernel"], kernel)
    blocks = one.params["layer1"]
    assert np.any(
        np.asarray(blocks[0]["conv1"]["kernel"]) != np.asarray(blocks[1]["conv1"]["kernel"])
    )


def test_weights_stay_what_they_are():
    """Written down from NumPy 2.4: another draw would change every published run."""
    kernel = np.ravel(_small().params["conv1"]["kernel"])[:3]
    np.testing.assert_allclose(kernel, FIRST_WEIGHTS, rtol=1e-6)


def test_weights_have_torchvisions_distribution():
    shape = jax.ShapeDtypeStruct
    tree = {
        "conv": {"kernel": shape((3, 3, 64, 32), jnp.float32)},
        "fc": {"kernel": shape((400, 50), jnp.float32), "bias": shape((50,), jnp.float32)},
        "bn": {"scale": shape((4,), jnp.float32), "bias": shape((4,), jnp.float32)},
    }
    filled = jax.tree.map(np.asarray, fill(tree, 3))
    assert abs(filled["conv"]["kernel"].std() / np.sqrt(2 / (9 * 32)) - 1) < 0.02
    assert abs(filled["conv"]["kernel"].mean()) < 0.002
    assert 0.0499 < abs(filled["fc"]["kernel"]).max() <= 0.05
    assert 0.04 < abs(filled["fc"]["bias"]).max() <= 0.05
    np.testing.assert_array_equal(filled["bn"]["scale"], np.ones(4))
    np.testing.assert_array_equal(filled["bn"]["bias"], np.zeros(4))
    stats = {"mean": shape((2,), jnp.float32), "var": shape((2,), jnp.float32)}
    np.testing.assert_array_equal(fill(stats, 3)["mean"], np.zeros(2))
    np.testing.assert_array_equal(fill(stats, 3)["var"], np.ones(2))


def test_widths_of_ones_own():
    example = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    made = models.create("resnet8", example=example, classes=3, seed=0, widths=(16, 16, 32))
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(made.params).items()}
    assert shapes["layer2/0/conv1/kernel"] == (3, 3, 16, 16)
    assert shapes["layer3/0/conv2/kernel"] == (3, 3, 32, 32)
    assert shapes["fc/kernel"] == (32, 3)
    for widths, fault in (((16, 16), "3 stages"), ((16, 0, 16), r"widths\[1\]")):
        with pytest.raises(ValueError, match=fault):
            models.create("resnet8", example=example, classes=3, seed=0, widths=widths)

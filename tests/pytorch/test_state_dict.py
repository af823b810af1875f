"""PyTorch's weights in: logits of the same random networks, and files that are refused."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import torch_state

from domino_jax import models
from domino_jax.core.paths import leaves_by_path

# Also PyTorch's own module may warn under the suite's strict filter.
from domino_jax.deploy import networks
from domino_jax.pytorch import state_dict, torch_file
from domino_jax.pytorch.layouts import COUNTER, tensors, to_torch
from domino_jax.run import dense, experiment, settings
from domino_jax.trace.layers import find_layers


def _torch_network(name, classes, channels, seed=0, **options):
    """Makes a network all of whose values, statistics too, are random."""
    network = networks.create(name, classes=classes, in_channels=channels, **options)
    return torch_state.randomize(network, seed)


def _ours(name, classes, shape, **options):
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    model = models.create(name, example=example, classes=classes, seed=1, **options)
    axes = find_layers(
        lambda p, x: model.apply(p, model.stats, x, train=False, key=None)[0],
        model.params,
        example,
        2,
    )
    return model, axes


def _save(network, path):
    if path.suffix != ".safetensors":
        torch.save(network.state_dict(), path)
    else:
        arrays = {k: v.numpy().copy() for k, v in network.state_dict().items()}
        safetensors.numpy.save_file(arrays, path)
    return path


@pytest.mark.parametrize(
    ("name", "shape", "options", "suffix"),
    [
        ("resnet18", (64, 64, 3), {}, ".safetensors"),
        ("resnet50", (64, 64, 3), {}, ".pth"),
        ("resnet20", (16, 16, 1), {}, ".safetensors"),
        pytest.param("resnet56_bottleneck", (16, 16, 3), {}, ".pth", marks=pytest.mark.slow),
        ("resnet18", (16, 16, 3), {"stem": "cifar", "shortcut": "pad"}, ".safetensors"),
    ],
)
def test_logits_in_training_and_evaluation(tmp_path, name, shape, options, suffix):
    network = _torch_network(name, 7, shape[2], **options)
    path = _save(network, tmp_path / f"weights{suffix}")
    model, axes = _ours(name, 7, shape, **options)
    params, stats = state_dict.restore(path, model.params, model.stats, axes)
    images = np.random.default_rng(3).normal(size=(6, *shape)).astype(np.float32)

    @jax.jit
    def both(params, stats, x):
        trained, moved = model.apply(params, stats, x, train=True, key=None)
        return model.apply(params, stats, x, train=False, key=None)[0], trained, moved

    evaluated, trained, moved = both(params, stats, images)
    x = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    with torch.no_grad():
        _require_close(evaluated, network.eval()(x).numpy())
        _require_close(trained, network.train()(x).numpy())
    after = {k: v.numpy() for k, v in network.state_dict().items()}
    new = to_torch(leaves_by_path(moved), tensors(params, stats, axes))
    assert len(new) == len(leaves_by_path(stats)) > 0
    for key, value in new.items():
        _require_close(value, after[key])


def _require_close(found, expected):
    assert np.abs(expected).max() > 1e-3
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def small():
    """Ours, its axes, and a PyTorch network of the same form."""
    return *_ours("resnet20", 7, (8, 8, 1)), _torch_network("resnet20", 7, 1)


def _arrays(network):
    return {k: v.numpy().copy() for k, v in network.state_dict().items()}


@pytest.mark.parametrize("suffix", state_dict.SUFFIXES)
def test_round_trip_is_bit_identical(tmp_path, small, suffix):
    model, axes, network = small
    path = _save(network, tmp_path / f"weights{suffix}")
    params, stats = state_dict.restore(path, model.params, model.stats, axes)
    assert jax.tree.structure(params) == jax.tree.structure(model.params)
    layout = tensors(params, stats, axes)
    back = to_torch(leaves_by_path(params) | leaves_by_path(stats), layout)
    before = {k: v for k, v in _arrays(network).items() if not k.endswith(COUNTER)}
    assert back.keys() == before.keys()
    for key, value in before.items():
        assert back[key].tobytes() == value.tobytes(), key


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", state_dict.SUFFIXES)
def test_low_precision_is_read_exactly(tmp_path, dtype, suffix):
    path, tensor = tmp_path / f"low{suffix}", torch.linspace(-2, 2, 9).to(getattr(torch, dtype))
    if suffix != ".safetensors":
        torch.save({"a": tensor}, path)
    else:
        from safetensors.torch import save_file  # noqa: PLC0415

        save_file({"a": tensor}, path)
    found = torch_file.as_array(path, "a", torch_file.read(path)[""]["a"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensor.float().numpy())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_double_precision_is_rounded_and_said(tmp_path, small, suffix):
    model, axes, network = small
    path = tmp_path / f"double{suffix}"
    arrays = {k: v.astype(np.float64) if v.ndim else v for k, v in _arrays(network).items()}
    if suffix == ".pth":
        torch.save({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, path)
    else:
        safetensors.numpy.save_file(arrays, path)
    said = []
    params, stats = state_dict.restore(path, model.params, model.stats, axes, say=said.append)
    back = to_torch(leaves_by_path(params) | leaves_by_path(stats), tensors(params, stats, axes))
    for key, value in back.items():
        np.testing.assert_array_equal(value, arrays[key].astype(np.float32))
        assert value.dtype == np.float32
    (line,) = said
    assert f"rounded {len(back)} float64 tensors to float32 (" in line


def test_double_precision_that_is_too_large(tmp_path, small):
    arrays = _arrays(small[2])
    large = arrays | {"fc.bias": np.full(arrays["fc.bias"].shape, 1e60)}
    assert "'fc.bias': expected numbers that float32 has room for, got float64 with" in _refused(
        small, large, tmp_path
    )
    large["fc.bias"][0] = np.inf  # does not hide the others
    assert "'fc.bias': expected numbers that float32 has room for" in _refused(
        small, large, tmp_path
    )


def test_numbers_that_a_parameter_has_no_room_for(tmp_path, small):
    model, axes, network = small
    arrays = _arrays(network)
    path = tmp_path / "weights.safetensors"
    large = arrays | {"fc.bias": np.full(arrays["fc.bias"].shape, 1e6, np.float32)}
    safetensors.numpy.save_file(large, path)
    params = {**model.params, "fc": jax.tree.map(jnp.float16, model.params["fc"])}
    with pytest.raises(ValueError, match="'fc/bias': expected numbers that float16 has room for"):
        state_dict.restore(path, params, model.stats, axes)


def _refused(small, arrays, tmp_path, **options):
    model, axes, _ = small
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors") as caught:
        state_dict.restore(path, model.params, model.stats, axes, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_extra_and_misshaped_tensors_are_named(tmp_path, small):
    arrays = _arrays(small[2])
    without = {k: v for k, v in arrays.items() if k != "layer1.0.bn1.running_var"}
    assert "lacks 'layer1.0.bn1.running_var' (1 in all)" in _refused(small, without, tmp_path)
    more = arrays | {"layer9.weight": np.zeros(2, np.float32)}
    assert "unexpected 'layer9.weight' (1 in all)" in _refused(small, more, tmp_path)
    turned = arrays | {"conv1.weight": arrays["conv1.weight"].transpose(2, 3, 1, 0).copy()}
    text = _refused(small, turned, tmp_path)
    assert "'conv1.weight' is (3, 3, 1, 16) in the file, (16, 1, 3, 3) in the network" in text
    whole = arrays | {"fc.bias": np.arange(7)}
    assert "'fc.bias': expected one of float16, bfloat16, float32, float64, got int64" in _refused(
        small, whole, tmp_path
    )


def test_another_architecture(tmp_path, small):
    text = _refused(small, _arrays(_torch_network("resnet32", 7, 1)), tmp_path)
    assert "another network" in text
    assert "unexpected 'layer1.3." in text


def test_without_counters(tmp_path, small):
    """Files from before PyTorch 0.4.1, torchvision's first among them, have none."""
    model, axes, network = small
    path = tmp_path / "old.safetensors"
    arrays = {k: v for k, v in _arrays(network).items() if not k.endswith(COUNTER)}
    safetensors.numpy.save_file(arrays, path)
    state_dict.restore(path, model.params, model.stats, axes)


def test_auxiliary_heads_are_left_out(tmp_path, small):
    """As torchvision does with those of its published GoogLeNet."""
    model, axes, network = small
    arrays = _arrays(network)
    aux = {f"aux{i}.fc2.weight": np.ones((5, 4), np.float32) for i in (1, 2)}
    path = tmp_path / "aux.safetensors"
    safetensors.numpy.save_file(arrays | aux, path)
    params, _ = state_dict.restore(path, model.params, model.stats, axes)
    np.testing.assert_array_equal(params["fc"]["bias"], arrays["fc.bias"])
    own = arrays | {"layer1.aux1.weight": np.ones(4, np.float32)}
    assert "unexpected 'layer1.aux1.weight'" in _refused(small, own, tmp_path)


def test_head_of_other_classes(tmp_path, small):
    model, axes, _ = small
    network = _torch_network("resnet20", 12, 1)
    assert "init_head = False" in _refused(small, _arrays(network), tmp_path)
    path = tmp_path / "weights.safetensors"
    params, _ = state_dict.restore(path, model.params, model.stats, axes, fresh="fc")
    np.testing.assert_array_equal(params["fc"]["kernel"], model.params["fc"]["kernel"])
    stem = network.state_dict()["conv1.weight"].numpy()
    np.testing.assert_array_equal(params["conv1"]["kernel"], stem.transpose(2, 3, 1, 0))
    bare = {k: v for k, v in _arrays(network).items() if not k.startswith("layer3")}
    assert "lacks 'layer3.0.bn1.bias'" in _refused(small, bare, tmp_path, fresh="fc")


class _Code:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize("suffix", state_dict.SUFFIXES)
def test_damaged_files(tmp_path, small, suffix):
    path = _save(small[2], tmp_path / f"weights{suffix}")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"damaged.*") as caught:
        torch_file.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no such file"):
        torch_file.read(tmp_path / f"absent{suffix}")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Code()}, "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth: .*nothing in it was run.*mkdir") as caught:
        torch_file.read(Path("code.pth"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_run").exists()


def test_a_run_starts_from_a_file(tmp_path, small):
    config = settings.defaults().unlock()
    config.model.name, config.data.name = "resnet20", "digits"
    config.data.dir, config.seed = str(tmp_path / "data"), 5
    for phase in ("dense", "search", "train"):
        config[phase].batch = 8
    config.init = str(_save(_torch_network("resnet20", 12, 1), tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"'fc\.bias' is \(12,\).*\(10,\)"):
        experiment.build(config, tmp_path / "run", lambda: False)
    config.init_head = False
    exp = experiment.build(config, tmp_path / "run", lambda: False)
    params, _ = dense.dense_weights(exp)
    np.testing.assert_array_equal(params["fc"]["kernel"], exp.model.params["fc"]["kernel"])
    assert np.any(params["conv1"]["kernel"] != np.asarray(exp.model.params["conv1"]["kernel"]))


def test_init_head_needs_such_a_file():
    config = settings.defaults()
    config.init_head = False
    with pytest.raises(ValueError, match=r"init_head: False needs an init that ends in \.pth"):
        settings.check(config)

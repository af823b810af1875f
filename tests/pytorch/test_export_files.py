"""What an export is made of: who may read it, whole numbers as inputs, and flags."""

import dataclasses
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax import export, find_layers, models
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM, save
from domino_jax.pytorch import document, exported, hugging_face_writer, onnx_file, writer
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.layouts import Tensor, torch_name
from domino_jax.pytorch.writer import export as write
from domino_jax.run import checkpoint


def of_tokens(dtype):
    """A table that is looked up and a matrix, of five sequences of three numbers below 16."""
    rng = np.random.default_rng(0)
    params = {
        "table": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
        "head": {"kernel": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)},
    }

    def apply(params, tokens):
        return params["table"][tokens.astype(jnp.int32)].mean(1) @ params["head"]["kernel"]

    layers = find_layers(apply, params, jax.ShapeDtypeStruct((1, 3), dtype), 4)
    found = {"head/kernel": NM(2, 4)}
    params = hard_mask(params, layers, n_by_path(found, layers))
    inputs = rng.integers(0, 16, (5, 3)).astype(dtype)
    return Network("mine:net", {}, models.plain(apply, params), layers, found, inputs, False)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("params", "mine:net: expected finite numbers, got NaN or infinity in 'head/kernel'"),
        ("stats", "mine:net: expected finite numbers, got NaN or infinity in 'head/mean'"),
        ("inputs", "samples.safetensors: expected finite numbers, got NaN or infinity in 'inputs'"),
    ],
)
def test_what_is_not_finite_is_not_written(tmp_path, part, words):
    network, nan = of_tokens(np.float32), np.full(3, np.nan, np.float32)
    if part == "inputs":
        network = dataclasses.replace(network, inputs=network.inputs + nan)
    else:
        tree = {"params": network.model.params, "stats": {"head": {"mean": nan}}}
        tree["params"]["head"]["kernel"] *= np.nan if part == "params" else 1
        model = network.model._replace(**{part: tree[part]})
        network = dataclasses.replace(network, model=model)
    with pytest.raises(InputError, match=words):
        write(network, tmp_path / "out", dtype="float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_tokens_are_what_an_embedding_takes(tmp_path, dtype):
    network = of_tokens(dtype)
    document = write(network, tmp_path / "out", dtype="float32")
    assert (document["in_channels"], document["image"]) == (None, None)
    held = exported.read_arrays(tmp_path / "out" / exported.SAMPLES)
    assert held["inputs"].dtype == np.int32
    np.testing.assert_array_equal(held["inputs"], network.inputs)


@pytest.mark.parametrize(("mask", "files", "folders"), [(0o022, 0o644, 0o755), (0o7, 0o660, 0o770)])
def test_the_umask_says_who_may_read(tmp_path, mask, files, folders):
    before = os.umask(mask)
    try:
        write(of_tokens(np.uint8), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folders
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "masks.safetensors", "export.json"} <= set(modes)
    assert set(modes.values()) == {files}, modes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _of_two_convolutions(count):
    """Two kernels of one shape, of which one is grouped; a norm to fold. Counts its traces."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 4, jnp.float32)  # noqa: E731
    params = {
        "plain": {"kernel": draw(1, 1, 16, 32)},
        "conv": {"kernel": draw(1, 1, 16, 32)},
        "bn": {"scale": jnp.ones(32, jnp.float32), "bias": draw(32)},
        "head": {"kernel": draw(32, 16)},
    }
    stats = {"bn": {"mean": draw(32), "var": jnp.ones(32, jnp.float32)}}

    def convolve(x, kernel, groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=groups
        )

    def apply(params, stats, x, *, train, key):
        count.append(1)
        x = convolve(x, params["plain"]["kernel"], 1)
        x = convolve(x, params["conv"]["kernel"], 2)
        norm = stats["bn"]
        factor = params["bn"]["scale"] * jax.lax.rsqrt(norm["var"] + 1e-3)
        bias = params["bn"]["bias"] - norm["mean"] * factor
        x = x * factor.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
        return x.mean((1, 2)) @ params["head"]["kernel"], stats

    one = jax.ShapeDtypeStruct((1, 2, 2, 16), jnp.float32)
    forward = lambda p, x: apply(p, stats, x, train=False, key=None)[0]  # noqa: E731
    layers = find_layers(forward, params, one, 4)
    found = {layer.name: NM(2, 4) for layer in grouped(layers)}
    params = hard_mask(params, layers, n_by_path(found, layers))
    inputs = rng.normal(size=(3, 2, 2, 16)).astype(np.float32)
    return Network("mine:net", {}, models.Model(apply, params, stats), layers, found, inputs, False)


def test_a_plain_convolution_keeps_its_kernel_beside_a_grouped_one_of_its_shape(tmp_path):
    document = write(_of_two_convolutions([]), tmp_path / "out", names=torch_name)
    entries = document["layers"]
    assert entries["plain"]["shape"] == entries["conv"]["shape"] == [32, 16, 1, 1]
    assert (entries["plain"]["groups"], entries["plain"]["sparse24"]) == (1, True)
    assert (entries["conv"]["groups"], entries["conv"]["sparse24"]) == (2, False)
    assert entries["conv"]["why"] == "grouped convolution (2 groups)"


@pytest.mark.parametrize("fold", [True, False])
def test_an_export_traces_the_network_once(tmp_path, fold):
    count = []
    network = _of_two_convolutions(count)
    count.clear()
    write(network, tmp_path / "out", fold_norms=fold, names=torch_name)
    assert len(count) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdr=x", "--out=y"], "unknown flag '--workdr'; nearest: --workdir"),
        (["--workdir=x"], "--out=FOLDER is missing"),
        (["--out=y"], "--workdir=FOLDER is missing"),
        (["--workdir=x", "--out=y", "z"], "unknown flag 'z'"),
    ],
)
def test_flags(arguments, words, capsys):
    assert export.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)


MASK = np.tile(np.array([[1], [1], [0], [0]], np.uint8), (2, 16))
BROKEN_MASKS = {
    "is masked in only one of": {},
    "is no weight of this shape": {"head/kernel": MASK[:4]},
    "a mask is uint8, 0 or 1": {"head/kernel": 2 * MASK},
}


@pytest.mark.parametrize("message", BROKEN_MASKS)
def test_masks_that_do_not_fit_the_weights(tmp_path, message):
    write(of_tokens(np.uint8), tmp_path / "out")
    exported.write_arrays(tmp_path / "out" / exported.MASKS, BROKEN_MASKS[message])
    with pytest.raises(InputError, match=rf"masks\.safetensors: head/kernel.* ?{message}"):
        exported.check(tmp_path / "out")


OF_ENTRIES = {
    "not an export of format 1": lambda d, e: d.update(format=2),
    "expected a dtype, a backend and layers by name": lambda d, e: d.pop("dtype"),
    "expected a dtype, a backend and layers": lambda d, e: d.update(layers=[]),
    "expected a backend of .*cutlass.* got 'cut'": lambda d, e: d.update(backend="cut"),
    "head/kernel: expected weight, jax, kind": lambda d, e: e.pop("pattern24"),
    "head/kernel: expected weight, jax, kind, why": lambda d, e: e.update(n="2"),
    "head/kernel: expected weight": lambda d, e: d["layers"].update({"head/kernel": 3}),
    "head/kernel: no weight head/kern of this shape": lambda d, e: e.update(weight="head/kern"),
    "no weight head/kernel of this shape": lambda d, e: e.update(shape=[16, 8]),
    "head/kernel: expected 1 <= n <= m, got 5 and 4": lambda d, e: e.update(n=5),
    "head/kernel: expected axes of a weight": lambda d, e: e["axes"].update(inputs=[1]),
    "head/kernel: expected axes of a weight of": lambda d, e: e["axes"].update(inputs=[0.0]),
    "head/kernel: expected axes": lambda d, e: e["axes"].update(inputs=None),
    "and the index of a slice, got .* and 3": lambda d, e: e.update(index=3),
    "sparse24 is True .can run. there, but": lambda d, e: e.update(sparse24=True, why=""),
}


@pytest.mark.parametrize("message", OF_ENTRIES)
def test_a_document_of_another_form(tmp_path, message):
    write(of_tokens(np.uint8), tmp_path / "out")
    path = tmp_path / "out" / exported.DOCUMENT
    content = json.loads(path.read_text())
    OF_ENTRIES[message](content, content["layers"]["head/kernel"])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"export\.json: .*{message}"):
        exported.check(tmp_path / "out")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "torch"])
def test_onnx_without_its_packages(tmp_path, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"^format onnx needs torch, onnx, .*" + missing):
        onnx_file.write(tmp_path)


def test_a_scheme_in_the_record_of_a_run_that_is_none(tmp_path):
    checkpoint.save(tmp_path / "train" / "sparse", 1, {"params": {"a": np.ones(2)}})
    record = {"common": {"seed": 0}, "train": {"scheme": {"a": "4 of 8"}}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"config\.json: 'scheme': N:M is written like 2:4"):
        export.network_of(tmp_path)


def test_weights_outside_the_masks_are_not_written(tmp_path):
    network = of_tokens(np.uint8)
    params = {**network.model.params, "head": {"kernel": jnp.ones((8, 16))}}
    dense = dataclasses.replace(network, model=network.model._replace(params=params))
    with pytest.raises(InputError, match="head/kernel: 64 weights more than its 2:4 allows"):
        write(dense, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_language_model_is_written_for_transformers(tmp_path):
    with pytest.raises(InputError, match=r"format hf: expected a run of causal_lm .* mine:net"):
        hugging_face_writer.export(of_tokens(np.uint8), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_settings(tmp_path):
    checkpoint.save(tmp_path / "train" / "sparse", 1, {"params": {"a": np.ones(2)}})
    with pytest.raises(InputError, match=r"neither scheme\.json nor config\.json tells"):
        export.network_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:names", r"expected 'package\.module:function', got 'nowhere:names' \(Module"),
        ("math", r"expected 'package\.module:function', got 'math' \(Attr"),
        ("math:pi", "--names 'math:pi': is no function"),
    ],
)
def test_names_that_are_none(name, words):
    with pytest.raises(InputError, match=words):
        export._function(name)


def test_ctrl_c_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(flags):
        with writer.whole_folder(tmp_path / "out") as folder:
            (folder / exported.DOCUMENT).write_text("{}")
            raise KeyboardInterrupt

    monkeypatch.setattr(export, "_run", interrupted)
    assert export.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]) == 130
    assert capsys.readouterr().err == "stopped: no folder was made\n"
    assert not any(tmp_path.iterdir())


def test_a_pruned_layer_that_the_scheme_lacks(tmp_path):
    write(of_tokens(np.uint8), tmp_path / "out")
    save(tmp_path / "out" / exported.SCHEME, {})
    with pytest.raises(InputError, match=r"scheme\.json: no entry for head/kernel"):
        exported.check(tmp_path / "out")


def test_a_layer_that_has_no_axes_there():
    network = of_tokens(np.uint8)
    layer = grouped(network.layers)[0]
    tensor = Tensor(layer.path, "head.weight", (1, 0), (16, 8), None)
    with pytest.raises(InputError, match="head/kernel: is a layer only under the rules of the run"):
        document._entry(network, layer, tensor, by_torch=True)


def test_onnx_wants_a_network_of_pytorch(tmp_path):
    with pytest.raises(InputError, match="format onnx: PyTorch has no network"):
        write(of_tokens(np.uint8), tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()

"""Files of PyTorch as people have them: taken where they fit exactly, else refused in one line."""

import argparse
import collections
import json
import os
import struct
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from domino_jax import find_layers, models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM
from domino_jax.pytorch import state_dict, torch_file
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write

HIDDEN, OUT = "hidden.weight", "head.weight"


def _apply(params, x):
    return jnp.tanh(x @ params["hidden"]["kernel"]) @ params["head"]["kernel"]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"hidden": {"kernel": draw(8, 12)}, "head": {"kernel": draw(12, 4)}}
    return params, find_layers(_apply, params, jax.ShapeDtypeStruct((1, 8), jnp.float32), 4)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {HIDDEN: torch.randn(12, 8), OUT: torch.randn(4, 12)}


def _with(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def _restore(network, path):
    said = []
    params, _ = state_dict.restore(path, network[0], {}, network[1], say=said.append)
    return params, said


def _refused(network, path):
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")) as caught:
        _restore(network, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _other(weights):
    return {name: tensor + 1 for name, tensor in weights.items()}


# name -> (what is saved, words of the line that is said; None: nothing is taken off)
FORMS = {
    "plain": (lambda w: w, None),
    "ordered": (collections.OrderedDict, None),
    "state_dict": (lambda w: {"state_dict": w, "epoch": 3}, "took 'state_dict'"),
    "args": (
        lambda w: {"model": w, "args": argparse.Namespace(lr=0.1, model="net")},
        "took 'model'",
    ),
    "simple args": (lambda w: {"net": w, "cfg": types.SimpleNamespace(lr=0.1)}, "took 'net'"),
    "deep": (lambda w: {"a": {"b": {"c": w}}}, "took 'a/b/c'"),
    "in a list": (lambda w: [3, w], "took '1'"),
    "data parallel": (lambda w: _with("module.", w), "without the prefix 'module.'"),
    "compiled": (lambda w: _with("_orig_mod.", w), "without '_orig_mod.'"),
    "both": (
        lambda w: {"model": _with("module._orig_mod.", w)},
        "took 'model', without the prefix 'module.', without '_orig_mod.'",
    ),
    "compiled within": (
        lambda w: {f"{n[:-6]}_orig_mod.weight": t for n, t in w.items()},
        "without '_orig_mod.'",
    ),
    "lightning": (
        lambda w: {"state_dict": _with("model.", w) | {"loss.weight": torch.ones(3)}, "epoch": 1},
        "took 'state_dict', without the prefix 'model.', left out 1 of its tensors (loss.weight",
    ),
    "optimizer": (
        lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": w[HIDDEN]}}}},
        "took 'model'",
    ),
    "average only": (
        lambda w: _with("module.", w) | {"n_averaged": torch.tensor(3)},
        "without the prefix 'module.', left out 1 of its tensors (n_averaged",
    ),
    "average beside": (
        lambda w: {"model": w, "model_ema": _other(w)},
        "took 'model', not 'model_ema', which fits too",
    ),
    "average within": (
        lambda w: {"state_dict": _with("model.", w) | _with("model_ema.", _other(w))},
        "took 'state_dict', without the prefix 'model.', not 'state_dict: model_ema.'",
    ),
    "average beside bare names": (
        lambda w: {**w, **_with("ema.", _other(w))},
        "not 'ema.', which fits too, left out 2 of its tensors (ema.hidden.weight",
    ),
    "average below a prefix": (
        lambda w: _with("model.", w) | _with("model.ema.module.", _other(w)) | {"model.n": w[OUT]},
        "without the prefix 'model.', not 'model.ema.module.', which fits too, left out 3 of its",
    ),
    "average beside more": (
        lambda w: {"model": {**w, "loss.weight": torch.ones(3)}, "model_ema": _other(w)},
        "took 'model', not 'model_ema', which fits too, left out 1 of its tensors (loss.weight",
    ),
    "twice the same": (lambda w: {"last": w, "best": w}, "took 'last', not 'best'"),
    "tied by memory": (lambda w: {**w, "again.weight": w[OUT]}, "left out 1 of its tensors (again"),
    "tied by value": (
        lambda w: {**w, "again.weight": w[OUT].clone()},
        "left out 1 of its tensors (again.weight",
    ),
    "expanded": (lambda w: {"state_dict": w, "big": torch.ones(1).expand(10**6, 10**6)}, None),
    "parameters": (lambda w: {name: nn.Parameter(t) for name, t in w.items()}, None),
}


SUFFIXES = [("args", suffix) for suffix in torch_file.SUFFIXES if suffix != ".safetensors"]


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".pth") for name in FORMS), *SUFFIXES])
def test_files_as_people_have_them(tmp_path, network, weights, name, suffix):
    make, words = FORMS[name]
    path = tmp_path / f"weights{suffix}"
    torch.save(make(weights), path)
    assert state_dict.is_torch_file(path)
    params, said = _restore(network, path)
    np.testing.assert_array_equal(params["hidden"]["kernel"], weights[HIDDEN].numpy().T)
    np.testing.assert_array_equal(params["head"]["kernel"], weights[OUT].numpy().T)
    if words is not None:
        (line,) = said
        assert str(path) in line
        assert words in line


@pytest.mark.parametrize("legacy", [True, False])
def test_files_of_old(tmp_path, network, weights, legacy):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=not legacy)
    np.testing.assert_array_equal(_restore(network, path)[0]["head"]["kernel"], weights[OUT].T)


def test_files_without_checksums(tmp_path, network, weights):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert "must be saved with checksums" in _refused(network, tmp_path / "weights.pth")


def test_a_tied_tensor_written_once(tmp_path, network, weights):
    """As `safetensors.torch.save_model` does, with the other name in the metadata."""
    path = tmp_path / "weights.safetensors"
    arrays = {"other.weight": weights[OUT].numpy(), HIDDEN: weights[HIDDEN].numpy()}
    safetensors.numpy.save_file(arrays, path, metadata={OUT: "other.weight"})
    params, _ = _restore(network, path)
    np.testing.assert_array_equal(params["head"]["kernel"], weights[OUT].numpy().T)


def test_metadata_replaces_no_tensor_of_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"a": np.ones((4, 4), np.float32), "b": np.zeros((4, 4), np.float32)}
    safetensors.numpy.save_file(arrays, path, metadata={"a": "b", "c": "b"})
    (found,) = torch_file.read(path).values()
    assert {name: array.max() for name, array in found.items()} == {"a": 1, "b": 0, "c": 0}


def test_several_networks_that_fit_are_refused(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    torch.save({"student": weights, "teacher": _other(weights)}, path)
    assert "several networks that fit: 'student' and 'teacher'" in _refused(network, path)
    torch.save({**weights, **_with("teacher.", _other(weights))}, path)
    line = "several networks that fit: 'teacher.' and the names without a prefix; save"
    assert line in _refused(network, path)


def test_what_is_equal_by_chance_is_too_much(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    torch.save({**weights, "hidden.bias": torch.zeros(12)}, path)
    assert "has an unexpected 'hidden.bias'" in _refused(network, path)
    torch.save({**weights, "more.weight": torch.randn(4, 12)}, path)
    assert "has an unexpected 'more.weight'" in _refused(network, path)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({**zeros, "more.weight": torch.zeros(4, 12)}, path)
    assert "has an unexpected 'more.weight'" in _refused(network, path)


def test_the_nearest_set_is_named(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    torch.save(
        {"model": _with("module.", {HIDDEN: weights[HIDDEN]}), "x": {"y": torch.ones(1)}}, path
    )
    line = _refused(network, path)
    assert "lacks 'head.weight' (1 in all) (in 'model: module.')" in line
    torch.save({"epoch": 3, "notes": ["a"]}, path)
    assert "it holds no tensors" in _refused(network, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to(torch.float8_e4m3fn), "is a float8_e4m3fn tensor"),
        (lambda t: t.to_sparse(), "is a sparse_coo tensor.*to_dense"),
        (lambda t: t.to_sparse_csr(), "is a sparse_csr tensor.*to_dense"),
        (lambda t: t.to("meta"), "has no values .device meta"),
        (lambda t: t.to(torch.complex64), "is a complex64 tensor.*real"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is a qint8 tensor.*dequant"),
        (lambda t: t.long(), "expected one of float16, .*, got int64"),
    ],
    ids=["float8", "coo", "csr", "meta", "complex", "quantized", "whole"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_tensors_of_unusual_storage(tmp_path, network, weights, change, words):
    path = tmp_path / "weights.pth"
    torch.save({**weights, OUT: change(weights[OUT])}, path)
    line = _refused(network, path)
    assert "'head.weight'" in line
    with pytest.raises(ValueError, match=words):
        _restore(network, path)


def test_float8_in_safetensors(tmp_path, network, weights):
    from safetensors.torch import save_file  # noqa: PLC0415

    path = tmp_path / "weights.safetensors"
    save_file({**weights, OUT: weights[OUT].to(torch.float8_e4m3fn)}, path)
    assert "'head.weight' is a F8_E4M3 tensor" in _refused(network, path)


def test_a_flipped_bit_is_refused(tmp_path, network, weights):
    """Every bit of what the file holds; between the records lie bytes that no one reads."""
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    whole, (good, _) = path.read_bytes(), _restore(network, path)
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    spots = set(range(0, len(whole), 97))
    for record in records:
        spots |= set(
            range(record.header_offset + 64, record.header_offset + 64 + record.file_size, 41)
        )
    refused = 0
    for spot in sorted(spot for spot in spots if spot < len(whole)):
        broken = bytearray(whole)
        broken[spot] ^= 1 << (spot % 8)
        path.write_bytes(broken)
        try:
            found, _ = _restore(network, path)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            for layer in good:
                np.testing.assert_array_equal(found[layer]["kernel"], good[layer]["kernel"])
    assert refused > 20


def test_a_small_file_that_claims_much(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    big = torch.ones(1).expand(2**19, 2**19)
    torch.save({**weights, OUT: big}, path)
    _refused(network, path)
    torch.save({HIDDEN: weights[HIDDEN], OUT: torch.ones(1, 1).expand(4, 12)}, path)
    _restore(network, path)  # expanded, but no larger than the file
    torch.save(weights, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (pickle,) = [name for name in content if name.endswith("data.pkl")]
    size = b"K" + bytes([96])  # the numbers of a storage
    assert content[pickle].count(size) == 1
    content[pickle] = content[pickle].replace(size, b"\x8a\x06" + struct.pack("<Q", 2**39)[:6])
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in content.items():
            archive.writestr(name, record)
    assert f"claims {2**39:,} numbers, more than the file has" in _refused(network, path)
    packed = {**weights, OUT: torch.zeros(2000, 2000)}
    torch.save(packed, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in content.items():
            archive.writestr(name, record)
    assert "bytes, more than the file has" in _refused(network, path)


def test_old_storages_that_claim_much(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert whole.count(b"K\x60N") == 1  # 96 numbers, and no view of them
    path.write_bytes(whole.replace(b"K\x60N", b"\x8a\x06" + struct.pack("<Q", 2**39)[:6] + b"N"))
    assert "claims" in _refused(network, path)


def test_what_would_run_code_is_refused_with_the_line_that_converts(tmp_path, network, weights):
    path = tmp_path / "weights.pth"
    module = nn.Sequential(collections.OrderedDict(hidden=nn.Linear(8, 12, bias=False)))
    module.add_module("head", nn.Linear(12, 4, bias=False))
    torch.save(module, path)
    line = _refused(network, path)
    assert "nothing in it was run" in line
    code = line.partition("which runs its code: ")[2].replace(
        "'plain.pth'", repr(str(tmp_path / "p.pth"))
    )
    exec(code, {"torch": torch})
    params, _ = _restore(network, tmp_path / "p.pth")
    np.testing.assert_array_equal(params["head"]["kernel"], module.head.weight.detach().numpy().T)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path, network):
    path = tmp_path / "weights.pt"
    torch.jit.script(nn.Linear(2, 3)).save(str(path))
    assert "torch.jit.load" in _refused(network, path)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF" + bytes(100), b"\x80\x04", b"PK\x03\x04" + bytes(50)]
)
def test_other_files(tmp_path, network, content):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    _refused(network, path)


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {}}', b"[" * 50_000, b"{}{}"])
def test_broken_headers_of_safetensors(tmp_path, network, header):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    assert "damaged" in _refused(network, path)


def test_a_network_that_pytorch_has_no_layout_for(tmp_path):
    """Our own export of it comes back, also without export.json; others are refused with why."""

    def apply(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]

    params = {"w": jnp.arange(32.0, dtype=jnp.float32).reshape(2, 4, 4)}
    layers = find_layers(apply, params, jax.ShapeDtypeStruct((1, 4), jnp.float32), 4)
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"w": np.asarray(params["w"])}, path)
    found, _ = state_dict.restore(path, params, {}, layers)
    np.testing.assert_array_equal(found["w"], params["w"])
    safetensors.numpy.save_file({"v": np.asarray(params["w"])}, path)
    with pytest.raises(ValueError, match="w: PyTorch has no layout for stacked kernels"):
        state_dict.restore(path, params, {}, layers)


@pytest.mark.parametrize("suffix", torch_file.SUFFIXES)
def test_what_is_no_regular_file(tmp_path, network, suffix):
    pipe, folder, device = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "device"))
    os.mkfifo(pipe)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device):
        assert "expected a file of tensors, got something else" in _refused(network, path)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "run.ckpt").mkdir()
    assert not state_dict.is_torch_file(tmp_path / "run.ckpt")


@pytest.mark.parametrize("file", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("named", [True, False])
def test_our_own_export(tmp_path, network, file, named):
    """By PyTorch's names, or by paths of JAX where no --names were given."""
    params, layers = network
    scheme = {layer.name: NM(2, 4) for layer in grouped(layers)}
    masked = hard_mask(params, layers, n_by_path(scheme, layers))
    inputs = np.ones((2, 8), np.float32)
    made = Network("mine:net", {}, models.plain(_apply, masked), layers, scheme, inputs, False)
    names = state_dict.torch_name if named else None
    document = write(made, tmp_path / "out", dtype="float32", names=names)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == document
    found, said = _restore(network, tmp_path / "out" / file)
    for layer in found:
        np.testing.assert_array_equal(found[layer]["kernel"], masked[layer]["kernel"])
    assert said == []
    (tmp_path / "out" / "export.json").unlink()  # the file alone
    again, _ = _restore(network, tmp_path / "out" / file)
    np.testing.assert_array_equal(again["head"]["kernel"], found["head"]["kernel"])


def test_without_pytorch(tmp_path, weights, monkeypatch):
    torch.save(weights, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"a\.pth: reading it needs PyTorch \(pip install torch\)"):
        torch_file.read(tmp_path / "a.pth")


def test_a_tensor_that_claims_more_than_its_file_has(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"small")
    with pytest.raises(ValueError, match=r"'w' claims 4,000,000 bytes, more than the file has"):
        torch_file.as_array(path, "w", torch.zeros(1).expand(1_000_000))

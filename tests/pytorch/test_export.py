"""Networks out: parity with PyTorch, real 2:4 patterns, folders that agree, and what is refused."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from domino_jax import data, export, find_layers, models
from domino_jax.core import scheme
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.core.scheme import NM
from domino_jax.deploy import networks
from domino_jax.pytorch import exported
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write
from domino_jax.pytorch.writer import relative_difference
from domino_jax.run import checkpoint
from domino_jax.run.settings import defaults

ROOT = Path(__file__).parents[2]


def _random_stats(model, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean = path.endswith("mean")
        values = rng.normal(0, 0.1, leaf.shape) if mean else rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    stats = {path: draw(path, leaf) for path, leaf in leaves_by_path(model.stats).items()}
    return model._replace(stats=replace_leaves(model.stats, stats))


def _network(name, shape, classes, m, cycle, *, count=16, rules=()):
    """Makes a network of random weights, layer i of which keeps cycle[i % len] of m."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    model = _random_stats(models.create(name, example=example, classes=classes, seed=0))

    def forward(params, x):
        return model.apply(params, model.stats, x, train=False, key=None)[0]

    layers = find_layers(forward, model.params, example, m, rules)
    found = {s.name: NM(cycle[i % len(cycle)], m) for i, s in enumerate(grouped(layers))}
    levels = n_by_path(found, layers)
    params = jax.jit(lambda p: hard_mask(p, layers, levels))(model.params)
    inputs = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    return Network(name, {}, model._replace(params=params), layers, found, inputs)


@pytest.fixture(scope="module")
def resnet50():
    return _network("resnet50", (32, 32, 3), 32, 4, (1, 2, 4), count=8)


@pytest.fixture(scope="module")
def small():
    return _network("resnet20", (8, 8, 1), 10, 16, (1, 8, 2, 16))


def _torch_logits(folder):
    """Loads model.pt strictly into PyTorch's network and runs it on the stored inputs."""
    document = exported.read_document(folder)
    network = networks.create(
        document["model"],
        classes=document["classes"],
        in_channels=document["in_channels"],
        folded=document["folded"],
        **document["model_options"],
    )
    state = torch.load(folder / "model.pt", weights_only=True)
    network.load_state_dict(state, strict=True)
    samples = exported.read_arrays(folder / exported.SAMPLES)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(samples["inputs"])).numpy()
    return logits, samples["logits"]


def _require_parity(folder):
    found, expected = _torch_logits(folder)
    assert np.abs(expected).max() > 0.1
    assert relative_difference(found, expected) <= 1e-3
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def _survives_packing(weight):
    """Packs a matrix as CUTLASS does and unpacks it: what is not 2:4 comes back changed."""
    from torch.sparse import _semi_structured_conversions as packing  # noqa: PLC0415

    matrix = weight.movedim(1, -1).flatten(1) if weight.ndim == 4 else weight
    packed = packing.sparse_semi_structured_from_dense_cutlass(matrix.contiguous())
    back = packing.sparse_semi_structured_to_dense_cutlass(*packed)
    return torch.equal(back, matrix)


def test_resnet50_in_float16(tmp_path, resnet50):
    document = write(resnet50, tmp_path / "out")
    _require_parity(tmp_path / "out")
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    runs = [entry for entry in document["layers"].values() if entry["sparse24"]]
    assert len(runs) == sum(nm.n < 4 for nm in resnet50.scheme.values()) > 30
    assert {entry["n"] for entry in runs} == {1, 2}
    assert all(_survives_packing(state[entry["weight"]]) for entry in runs)
    dense = document["layers"]["layer1.0.conv3"]
    assert (dense["n"], dense["sparse24"], dense["why"]) == (4, False, "dense")
    assert not _survives_packing(state[dense["weight"]])
    assert document["layers"]["conv1"]["reason"] == "input size 3 is no multiple of 4"
    assert state["conv1.weight"].dtype == torch.float16
    assert state["bn1.running_var"].dtype == torch.float32
    assert state["bn1.num_batches_tracked"].dtype == torch.int64


def test_resnet50_folded_in_float32(tmp_path, resnet50):
    document = write(resnet50, tmp_path / "out", dtype="float32", fold_norms=True)
    _require_parity(tmp_path / "out")
    weights = exported.read_arrays(tmp_path / "out" / exported.WEIGHTS)
    assert not any("bn" in name or "downsample.0.1" in name for name in weights)
    assert weights["layer1.0.downsample.0.bias"].shape == (256,)
    assert document["backend"] == "cutlass"
    whys = {entry["n"]: entry["why"] for name, entry in document["layers"].items() if name != "fc"}
    assert whys[2] == "2:4 is no 1:2 pattern, which float32 kernels take"
    params = leaves_by_path(resnet50.model.params)
    mask = np.asarray(params["layer1/0/conv1/kernel"]) != 0
    zeros = weights["layer1.0.conv1.weight"].transpose(2, 3, 1, 0) != 0
    np.testing.assert_array_equal(zeros, mask)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory, small):
    """A work directory as a finished run leaves it; the weights are random."""
    workdir = tmp_path_factory.mktemp("run")
    config = defaults().unlock()
    config.model.name, config.data.name = "resnet20", "digits"
    config.data.dir = str(workdir / "data")
    scheme.save(workdir / "scheme.json", small.scheme, config=config.to_dict())
    tree = {"params": small.model.params, "stats": small.model.stats}
    checkpoint.save(workdir / "train" / "sparse", 7, tree)
    return workdir


def _run(digits_run, out, *options):
    return export.main([f"--workdir={digits_run}", f"--out={out}", *options])


def test_a_digits_run(tmp_path, digits_run, small, capsys):
    assert _run(digits_run, tmp_path / "out") == 0
    assert "can run sparse (float16)" in capsys.readouterr().out
    _require_parity(tmp_path / "out")
    assert exported.read_arrays(tmp_path / "out" / exported.SAMPLES)["inputs"].shape == (
        *(64, 1, 8, 8),
    )
    found = scheme.load(tmp_path / "out" / exported.SCHEME)
    assert [str(nm) for nm in found.values()] == [str(nm) for nm in small.scheme.values()]
    assert next(iter(found)) == "layer1.0.conv1.weight"
    layers = exported.read_document(tmp_path / "out")["layers"]
    assert layers["layer1.0.conv1"]["sparse24"]
    assert layers["layer1.0.conv1"]["jax"] == "layer1/0/conv1/kernel"
    assert layers["layer1.0.conv2"]["why"] == "8:16 is no 2:4 pattern, which float16 kernels take"
    assert layers["fc"]["why"] == "10 rows are no multiple of 16 (cusparselt, float16)"


def test_top_1_of_all_digits(tmp_path, digits_run, small):
    batches = list(data.create("digits", data_dir=str(digits_run / "data")).evaluate(360))
    images = np.concatenate([batch["inputs"] for batch in batches])
    assert len(images) == 360
    network = Network(
        *[getattr(small, f) for f in ("name", "options", "model", "layers", "scheme")], images
    )
    write(network, tmp_path / "out")
    _require_parity(tmp_path / "out")


def test_onnx(tmp_path, digits_run, monkeypatch):
    onnx = importlib.import_module("onnx")
    assert _run(digits_run, tmp_path / "out", "--format=onnx", "--fold") == 0
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    from domino_jax.pytorch import onnx_file  # noqa: PLC0415

    samples = tmp_path / "out" / exported.SAMPLES
    arrays = exported.read_arrays(samples)
    arrays["logits"] = arrays["logits"][::-1]
    exported.write_arrays(samples, arrays)
    with pytest.raises(ValueError, match=r"model\.onnx: logits differ by"):
        onnx_file.write(tmp_path / "out")


def _refused(capsys, tmp_path, workdir, *options):
    """Runs the command, which must fail in one line and write nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert _run(workdir, tmp_path / "out", *options) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    return printed.err


def _copy(digits_run, tmp_path, document):
    """Makes a run with another scheme.json beside the same weights."""
    workdir = tmp_path / "other"
    (workdir / "train").mkdir(parents=True)
    (workdir / "train" / "sparse").symlink_to(digits_run / "train" / "sparse")
    (workdir / "scheme.json").write_text(json.dumps(document))
    return workdir


def test_schemes_that_do_not_fit(tmp_path, digits_run, capsys):
    document = scheme.load_document(digits_run / "scheme.json")
    tight = json.loads(json.dumps(document))
    tight["layers"]["layer1/0/conv2/kernel"]["n"] = 4
    text = _refused(capsys, tmp_path, _copy(digits_run, tmp_path / "a", tight))
    assert "layer1/0/conv2/kernel" in text
    assert "4:16" in text
    other = json.loads(json.dumps(document))
    del other["layers"]["fc/kernel"]
    other["order"].remove("fc/kernel")
    text = _refused(capsys, tmp_path, _copy(digits_run, tmp_path / "b", other))
    assert "fc/kernel" in text
    wrong = json.loads(json.dumps(document))
    wrong["config"]["model"]["name"] = "resnet32"
    text = _refused(capsys, tmp_path, _copy(digits_run, tmp_path / "c", wrong))
    assert "the checkpoint lacks 'params/layer1/3/bn1/bias'" in text


def test_wrong_arguments(tmp_path, digits_run, capsys):
    assert "no such folder" in _refused(capsys, tmp_path, tmp_path / "absent")
    assert "train.py has not finished" in _refused(capsys, tmp_path, tmp_path)
    text = _refused(capsys, tmp_path, digits_run, "--names=absent:names")
    assert "expected 'package.module:function'" in text
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert "exists already" in _refused(capsys, tmp_path, digits_run)
    with pytest.raises(SystemExit) as caught:
        export.main(["--workdir=a", "--out=b", "--dtype=int8"])
    assert caught.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_values_too_large_for_the_dtype(tmp_path, small):
    params = leaves_by_path(small.model.params)
    big = {"fc/bias": params["fc/bias"].at[0].set(7e4)}
    model = small.model._replace(params=replace_leaves(small.model.params, big))
    network = Network("resnet20", {}, model, small.layers, small.scheme, small.inputs)
    with pytest.raises(ValueError, match="fc/bias: has values that float16 cannot hold"):
        write(network, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_check_finds_files_that_disagree(tmp_path, small):
    folder = tmp_path / "out"
    write(small, folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(name, change, match):
        change(folder / name)
        with pytest.raises(ValueError, match=match) as caught:
            exported.check(folder)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(kept[name])
        exported.check(folder)

    def truncate(path):
        path.write_bytes(kept[path.name][:-10])

    def change_array(name, change):
        def act(path):
            arrays = {k: v.copy() for k, v in safetensors.numpy.load_file(path).items()}
            change(arrays[name])
            safetensors.numpy.save_file(arrays, path)

        return act

    def change_layer(**entries):
        def act(path):
            document = json.loads(kept[path.name])
            document["layers"]["layer1.0.conv2"] |= entries
            path.write_text(json.dumps(document))

        return act

    weight = "layer1.0.conv1.weight"
    refused(exported.WEIGHTS, truncate, r"model\.safetensors: cannot be read")
    refused(exported.MASKS, truncate, r"masks\.safetensors: cannot be read")
    less = change_array(weight, lambda mask: mask.fill(0))
    refused(exported.MASKS, less, r"conv1\.weight: \d+ weights outside the mask are not zero")
    more = change_array(weight, lambda mask: mask.fill(1))
    refused(exported.MASKS, more, r"conv1\.weight: keeps 16 of 16, its scheme says 1")
    refused(exported.DOCUMENT, change_layer(sparse24=True, why=""), r"conv2: sparse24 is True")
    refused(exported.DOCUMENT, change_layer(n=7), r"conv2\.weight is 8:16 there, 7:16 in export")
    refused(exported.DOCUMENT, lambda path: path.write_text("{"), "broken JSON")


def _own(stacked=False):
    """Two matrices, or one stack of two, of a network that PyTorch does not know."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(2, 64, 64)), jnp.float32)
    if stacked:
        params = {"blocks": {"kernel": kernel}}

        def apply(params, x):
            step = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
            return jax.lax.scan(step, x, params["blocks"]["kernel"])[0]
    else:
        params = {"a": {"kernel": kernel[0]}, "b": {"kernel": kernel[1]}}

        def apply(params, x):
            return jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"]

    model = models.plain(apply, params)
    layers = find_layers(apply, params, jax.ShapeDtypeStruct((1, 64), jnp.float32), 4)
    found = {spec.name: NM(n, 4) for spec, n in zip(layers, (2, 3), strict=True)}
    masked = hard_mask(params, layers, n_by_path(found, layers))
    inputs = rng.normal(size=(5, 64)).astype(np.float32)
    return Network("mine:net", {}, model._replace(params=masked), layers, found, inputs, False)


def test_own_network_by_paths(tmp_path):
    network = _own()
    document = write(network, tmp_path / "out")
    assert document["names"] == "jax"
    entry = document["layers"]["a/kernel"]
    assert entry["axes"] == {"stack": [], "window": [], "inputs": [0], "outputs": [1]}
    assert (entry["weight"], entry["sparse24"]) == ("a/kernel", True)
    weights = exported.read_arrays(tmp_path / "out" / exported.WEIGHTS)
    kept = np.asarray(network.model.params["a"]["kernel"]).astype(np.float16)
    np.testing.assert_array_equal(weights["a/kernel"], kept)
    assert not document["layers"]["b/kernel"]["sparse24"]


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    """A writer that turns the matrices leaves nothing behind but one line."""
    right = exported.write_arrays

    def turned(path, arrays):
        right(path, {name: array.T.copy() for name, array in arrays.items()})

    monkeypatch.setattr(exported, "write_arrays", turned)
    with pytest.raises(ValueError, match=r"export\.json: a/kernel|masks\.safetensors: a/kernel"):
        write(_own(), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_own_network_by_names(tmp_path):
    network = _own()
    named = lambda path: "net." + path.replace("/kernel", ".weight")  # noqa: E731
    document = write(network, tmp_path / "out", names=named)
    assert document["names"] == "pytorch"
    assert document["layers"]["net.a"]["weight"] == "net.a.weight"
    weights = exported.read_arrays(tmp_path / "out" / exported.WEIGHTS)
    kept = np.asarray(network.model.params["a"]["kernel"]).astype(np.float16)
    np.testing.assert_array_equal(weights["net.a.weight"], kept.T)


def test_own_stacked_network(tmp_path):
    document = write(_own(stacked=True), tmp_path / "out")
    layers = document["layers"]
    assert list(layers) == ["blocks/kernel#0", "blocks/kernel#1"]
    assert [entry["sparse24"] for entry in layers.values()] == [True, False]
    with pytest.raises(ValueError, match="blocks/kernel: PyTorch has no layout for stacked"):
        write(_own(stacked=True), tmp_path / "named", names=lambda path: path)


def test_a_norm_before_its_convolution_is_not_folded(tmp_path):
    """Names alone do not tell the order; the logits do."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    ones = jnp.ones(8, jnp.float32)
    params = {"conv1": {"kernel": kernel}, "bn1": {"scale": jnp.arange(8.0), "bias": ones}}
    stats = {"bn1": {"mean": 0.5 * ones, "var": ones}}

    def apply(params, stats, x, *, train, key):
        factor = params["bn1"]["scale"] * jax.lax.rsqrt(stats["bn1"]["var"] + 1e-5)
        x = (x - stats["bn1"]["mean"][None]) * factor[None] + params["bn1"]["bias"][None]
        return jax.nn.relu(x) @ params["conv1"]["kernel"], stats

    def forward(params, x):
        return apply(params, stats, x, train=False, key=None)[0]

    model = models.Model(apply, params, stats)
    layers = find_layers(forward, params, jax.ShapeDtypeStruct((1, 8), jnp.float32), 4)
    inputs = rng.normal(size=(4, 8)).astype(np.float32)
    network = Network("mine:net", {}, model, layers, {"conv1/kernel": NM(4, 4)}, inputs, False)
    with pytest.raises(ValueError, match="folding batch norms changes the logits by"):
        write(network, tmp_path / "out", fold_norms=True)
    assert not any(tmp_path.iterdir())


def test_help():
    command = [sys.executable, "-m", "domino_jax.export", "--help"]
    assert "--workdir" in subprocess.check_output(command, cwd=ROOT, text=True)

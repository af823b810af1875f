"""Measuring an export, on a CPU: what is chosen and kept, cost tables, and the command line."""

import json
import math

import jax
import jax.numpy as jnp
import pytest
import torch
import torch_export
from torch import nn

from benchmarks import torch_gpu
from configs import ampere
from domino_jax import models
from domino_jax.core import costs as budget
from domino_jax.deploy import check, networks, runtime, structure, tune
from domino_jax.deploy import folder as folders
from domino_jax.run import settings
from domino_jax.trace.layers import find_layers


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path):
    return torch_export.export(
        tmp_path / "exported", torch_export.small(), torch_export.LEVELS, (3, 8, 8)
    )


@pytest.fixture
def resnet(tmp_path):
    model = networks.create("resnet20", classes=10, in_channels=1)
    levels = {n: (2, 4) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    levels["conv1"] = (1, 1)
    info = {"model": "resnet20", "model_options": {}, "classes": 10, "in_channels": 1}
    return torch_export.export(tmp_path / "resnet", model, levels, (1, 8, 8), info)


def test_autotune_packs_what_is_faster_and_remembers(folder, monkeypatch):
    seen = torch_export.script_times(monkeypatch, layers=0.5, whole=0.9)
    kinds = [type(m).__name__ for m in _tuned(folder)]
    assert [kinds[i] for i in (0, 2, 4, 6)] == ["Conv2d", *["SparseConv2d"] * 2, "SparseLinear"]
    (entry,) = json.loads((folder / "tuning.json").read_text())["entries"]
    assert entry["inputs"] == [4, 3, 8, 8]
    assert entry["model"] == {"dense": 1.0, "sparse": 0.9}
    assert entry["layers"]["0"]["why"] == "all weights kept"
    assert entry["layers"]["4"]["ms"] == {"dense": 1.0, "plain": 0.5, "cutlass": 0.5}
    seen.clear()
    assert [type(m).__name__ for m in _tuned(folder)] == kinds
    assert seen == []
    _tuned(folder, batch=2)
    assert seen
    assert len(json.loads((folder / "tuning.json").read_text())["entries"]) == 2


@pytest.mark.parametrize(("layers", "whole"), [(0.5, 1.1), (0.99, 0.5)])
def test_autotune_stays_dense_where_that_is_faster(folder, monkeypatch, layers, whole):
    torch_export.script_times(monkeypatch, layers=layers, whole=whole)
    assert [type(m) for m in _tuned(folder)] == [type(m) for m in torch_export.small()]
    (entry,) = json.loads((folder / "tuning.json").read_text())["entries"]
    assert entry["runs"] == "dense"
    assert [type(m) for m in _tuned(folder)] == [type(m) for m in torch_export.small()]


def test_autotune_really_measures(folder):
    model = _tuned(folder, example=torch.randn(1, 3, 8, 8))
    assert (
        torch_export.logits_of(model, folder, torch.float16) - torch_export.stored_logits(folder)
    ).abs().max() < 1e-2
    (entry,) = json.loads((folder / "tuning.json").read_text())["entries"]
    assert all(time > 0 for layer in entry["layers"].values() for time in layer["ms"].values())


def test_damaged_tuning_is_refused(folder):
    (folder / "tuning.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tuning.json: damaged; delete it"):
        _tuned(folder)


def test_costs_for_every_candidate(folder, monkeypatch):
    torch_export.script_times(monkeypatch, layers=0.25, whole=0.5)
    export = folders.read_folder(folder)
    model = folders.put(torch_export.small(), export, torch_export.CPU, torch.float16)
    entry = tune.tune(model, export, [torch_export.PLAIN], batch=2)
    table = check.costs(export, entry, [3])
    assert table["2/kernel"] == {"1": 0.25, "2": 0.25, "3": 1.0, "4": 1.0}
    entry["dtype"] = "float32"
    assert check.costs(export, entry)["2/kernel"] == {"1": 0.25, "2": 1.0, "4": 1.0}
    entry["layers"]["2"]["ms"] = {"dense": 1.0}
    assert set(check.costs(export, entry)["2/kernel"].values()) == {1.0}


def test_check_prints_parity_and_times(resnet, capsys):
    costs = resnet / "costs.json"
    flags = [f"--check={resnet}", f"--costs={costs}", "--batch=2", *torch_export.QUICK]
    assert check.main(flags) == 0
    printed = capsys.readouterr().out
    assert "top-1 1.0000" in printed
    assert "runs dense, with the zeros in place: no CUDA device" in printed
    assert "| layer3.2.conv2 | 2:4 | " in printed
    assert "| whole model | | " in printed
    table = json.loads(costs.read_text())
    assert set(table["layer1/0/conv1/kernel"]) == {"1", "2", "4"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parity_in_16_bits(resnet, dtype):
    export = folders.read_folder(resnet)
    kind = getattr(torch, dtype)
    net = networks.create("resnet20", classes=10, in_channels=1)
    model = folders.put(net, export, torch_export.CPU, kind)
    held = folders.read_samples(resnet)
    assert check.parity(model, held, kind)[0] < check.TOLERANCE[dtype]
    before = structure.replace(
        model, {path: torch_export.PLAIN for path in export.layers if path != "conv1"}
    )
    assert len(before) == 19
    assert check.parity(model, held, kind)[0] < check.TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        (
            (),
            lambda f: torch_export.change_tensors(f, "samples", lambda t: t["logits"].mul_(2)),
            "differ by more than",
        ),
        (
            (),
            lambda f: torch_export.change_tensors(f, "samples", lambda t: t.pop("logits")),
            "wants as many 'inputs'",
        ),
        (
            (),
            lambda f: torch_export.change_tensors(
                f, "samples", lambda t: t.update(logits=t["logits"][:, :4].clone())
            ),
            "samples: logits of shape [",
        ),
        *(
            (
                (),
                lambda f, cut=cut: torch_export.change_tensors(
                    f, "samples", lambda t: t.update({name: cut(x) for name, x in t.items()})
                ),
                "wants as many 'inputs'",
            )
            for cut in (lambda x: x.sum(), lambda x: x[:0].clone())
        ),
        ((), lambda f: torch_export.truncate(f / "samples.safetensors"), "samples.safetensors: "),
        (
            (),
            lambda f: torch_export.change_document(f, lambda d: d.update(model="x")),
            "model: expected one of",
        ),
        (
            (),
            lambda f: torch_export.change_document(f, lambda d: d.update(model="resnet32")),
            "of another model",
        ),
        (("--model=json:nothing",), lambda f: None, "--model=module:function makes"),
        (("--candidates=two",), lambda f: None, "'two'"),
    ],
)
def test_check_fails_in_one_line(resnet, capsys, flags, change, message):
    change(resnet)
    assert check.main([f"--check={resnet}", "--batch=1", *torch_export.QUICK, *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_costs_are_an_objective_of_the_search(resnet, tmp_path):
    table, flags = tmp_path / "costs.json", (f"--check={resnet}", "--batch=1", *torch_export.QUICK)
    assert check.main([*flags, f"--costs={table}"]) == 0
    example = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    model = models.create("resnet20", example=example, classes=10, seed=0)
    layers = find_layers(
        lambda p, x: model.apply(p, model.stats, x, train=False, key=None)[0],
        model.params,
        example,
        4,
        candidates=(2, 4),
    )
    cost = budget.read_table(str(table), layers)
    assert len(layers) == 20
    assert 0 < budget.lowest_cost(layers, cost) <= budget.total_cost(layers, cost)


def test_layers_of_the_ampere_config_fit_the_kernels():
    config = ampere.get_config()
    settings.check(config)
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    model = models.create("resnet50", example=example, classes=1000, seed=0)
    layers = find_layers(
        lambda p, x: model.apply(p, model.stats, x, train=False, key=None)[0],
        model.params,
        example,
        config.search.m,
        config.search.rules,
        candidates=config.search.candidates,
    )
    free = [layer for layer in layers if not layer.reason]
    assert [layer.name for layer in layers if layer.reason] == ["conv1/kernel"]
    assert {layer.candidates for layer in free} == {(2, 4)}
    for layer in free:
        rows, columns = layer.shape[-1], math.prod(layer.shape[:-1])
        assert columns % 64 == 0
        assert rows % 32 == 0 or layer.name == "fc/kernel"


def test_benchmark_runs_on_a_cpu(capsys):
    assert torch_gpu.main(["--smoke", "--batches=1", "--dtypes=bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "| resnet20 | bfloat16 | 1 |" in printed
    assert "| stack | bfloat16 | 1 |" in printed
    assert "| layer3.2.conv2 |" in printed


def _tuned(folder, **options):
    options = {"backends": [torch_export.PLAIN, torch_export.ROUND_TRIP], "batch": 4} | options
    return runtime.load(
        torch_export.small(), folder, "cpu", torch.float16, autotune=True, **options
    )

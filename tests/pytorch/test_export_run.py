"""From a work directory to an export: what its record lacks is found or said, never guessed."""

import contextlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import own
import pytest

from domino_jax import export, models
from domino_jax.core import scheme
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM
from domino_jax.run import checkpoint, experiment
from domino_jax.run.settings import defaults
from domino_jax.trace.kernels import find_kernels


def _finished(workdir, config, model, example):
    """Leaves a work directory as train.py alone does: without the M of a search."""
    layers = experiment.layers_of(model, example, config.search)
    found = {layer.name: NM(1, layer.m) for layer in grouped(layers)}
    params = jax.jit(lambda p: hard_mask(p, layers, n_by_path(found, layers)))(model.params)
    tree = {"params": params, "stats": model.stats}
    checkpoint.save(workdir / "train" / "sparse", 7, tree)
    record = config.to_dict()
    for key in ("m", "candidates"):
        del record["search"][key]
    scheme.save(workdir / "scheme.json", found, config=record)
    return found


@pytest.fixture
def own_run(tmp_path):
    config = own.get_config().unlock()
    config.search.m = 4
    config.search.rules = (("stem", "flatten"), ("hidden|head", 2))
    example = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    model = own.network(example=example, classes=3, seed=0)
    return tmp_path / "run", _finished(tmp_path / "run", config, model, example)


def test_groups_are_those_of_the_scheme_of_each_layer(tmp_path, own_run):
    """The most frequent M of this scheme is not that of the rule 'flatten'."""
    workdir, found = own_run
    assert sorted(nm.m for nm in found.values()) == [2, 2, 4]
    assert export.main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 0
    layers = json.loads((tmp_path / "out" / "export.json").read_text())["layers"]
    assert {name: NM(layer["n"], layer["m"]) for name, layer in layers.items()} == found


def test_the_kernels_are_found_once_whatever_m_the_scheme_has(tmp_path, own_run, monkeypatch):
    found = []
    monkeypatch.setattr(export, "find_kernels", lambda *a: found.append(a) or find_kernels(*a))
    workdir, _ = own_run
    assert export.main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 0
    assert len(found) == 1


def test_a_scheme_of_other_groups_is_refused_in_one_line(tmp_path, own_run, capsys):
    workdir, found = own_run
    document = scheme.load_document(workdir / "scheme.json")
    scheme.save(
        workdir / "scheme.json",
        {**found, "hidden/kernel": NM(1, 8)},
        config=document["config"],
    )
    assert export.main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "kernel" in line
    assert not (tmp_path / "out").exists()


def test_a_dtype_that_is_left_out_is_said(tmp_path, capsys):
    config = defaults().unlock()
    config.model.name, config.model.dtype, config.data.name = "resnet8", "bfloat16", "digits"
    config.data.dir, config.search.m = str(tmp_path / "data"), 4
    example = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    model = models.create("resnet8", example=example, classes=10, seed=0)
    _finished(tmp_path / "run", config, model, example)
    out = tmp_path / "out"
    assert export.main([f"--workdir={tmp_path / 'run'}", f"--out={out}", "--dtype=float32"]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "model.dtype=bfloat16 is left out: the stored logits are of float32"
    assert "dtype" not in json.loads((out / "export.json").read_text())["model_options"]


@pytest.mark.parametrize("part", ["dense/x", "search", "train/sparse/x", "train/../train/x"])
def test_a_folder_within_the_checkpoints_of_a_run_is_refused(part, tmp_path, own_run, capsys):
    workdir, _ = own_run
    (workdir / "config.json").write_text('{"program": "domino_jax"}')
    before = sorted(workdir.rglob("*"))
    assert export.main([f"--workdir={workdir}", f"--out={workdir / part}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"out {workdir / part}: expected a folder outside {workdir}/")
    assert sorted(workdir.rglob("*")) == before


def test_a_stdout_that_takes_no_more_is_named(tmp_path, own_run, capsys):
    workdir, _ = own_run
    out = tmp_path / "out"
    with Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        assert export.main([f"--workdir={workdir}", f"--out={out}"]) == 1
    said = f"stdout: No space left on device; {out} was made whole"
    assert capsys.readouterr().err.splitlines() == [said]
    assert (out / "export.json").is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.exit(0)\n", "--names: expected 'package.module:function', got 'someones_names:f' ("),
        (
            "def f(path):\n    sys.exit(0)\n",
            "head/kernel: expected a name for PyTorch, got ",
        ),
    ],
)
def test_names_of_ones_own_that_end_the_program(text, said, tmp_path, own_run, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "someones_names", raising=False)
    (tmp_path / "someones_names.py").write_text(f"import sys\n{text}")
    workdir, _ = own_run
    words = [f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--names=someones_names:f"]
    assert export.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{said}SystemExit: 0 ({tmp_path}/someones_names.py, line ")
    assert not (tmp_path / "out").exists()


def test_a_scheme_whose_settings_are_none(tmp_path):
    layers = {"a": {"n": 1, "m": 2}}
    content = {"format": 1, "order": ["a"], "layers": layers, "config": 3}
    (tmp_path / "scheme.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'config': expected an object, got 3"):
        export._record(tmp_path)

"""Every config passes a dry run; nothing is downloaded, prepared or written."""

import importlib.util
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import scripts

from domino_jax import data
from domino_jax.run import experiment, rehearsal, settings, steps

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
# These need a network of one's own: test_causal_lm.py runs them.
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("causal_lm")]
# The others differ in the budget, the method or the pace, or take longer to compile.
FIRST = ("default", "resnet18_params_1460k", "glyphs")


def config_of(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A place in which every file would be seen, and in which no data set is prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


def rows(printed):
    lines = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 2}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in FIRST else pytest.mark.slow)
        for path in CONFIGS
    ],
)
def test_every_config_makes_one_step_of_each_phase(path, nowhere, capsys):
    config = config_of(path)
    began = time.monotonic()
    with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW needs it
        rehearsal.rehearse(config)
    phases = rows(capsys.readouterr().out)
    searched = {"search"} if config.search.method == "domino" else set()
    assert phases.keys() == {"dense", "train"} | searched
    small = config.data.name in ("digits", "glyphs", "stdlib_bytes", "fashion_mnist")
    for name, cells in phases.items():
        assert cells[1] == f"{config[name].batch:,}"
        assert cells[-1].startswith("loss " if small else "lowered in "), cells
    assert time.monotonic() - began < 300


def test_the_steps_are_those_of_the_run(nowhere, capsys):
    config = scripts.settings("dense.epochs=2", "dense.batch=32")
    rehearsal.rehearse(config)
    phases = rows(capsys.readouterr().out)
    size = data.spec(config.data.name).train_size
    assert phases["dense"][:2] == [str(2 * size // 32), "32"]
    assert phases["search"][0] == "-"


def test_a_scheme_says_what_it_keeps(nowhere, capsys):
    config = settings.defaults()
    config.scheme = str(Path(__file__).parents[1] / "data" / "resnet50_M16_0.80.txt")
    rehearsal.rehearse(config)
    assert "0.80.txt: keeps 19.24% of the weights" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["uniform", "sensitivity", "fisher"])
def test_no_dense_phase_and_no_search_where_there_would_be_none(nowhere, capsys, method):
    config = scripts.settings(f"search.method={method}", "search.calibration_batches=2")
    rehearsal.rehearse(config)
    assert rows(capsys.readouterr().out).keys() == {"dense", "train"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.budget=0.01", "out of reach"),
        ("search.max_steps=1", "search.max_steps"),
        ("dense.batch=0", "dense.batch"),
        ("data.name=digit", "digits"),
        ("init=not_there", "not_there"),
    ],
)
def test_what_a_run_would_refuse_is_refused(nowhere, override, message):
    with pytest.raises(ValueError, match=message):
        rehearsal.rehearse(scripts.settings(override))


def test_calibration_that_a_run_would_refuse_is_refused(nowhere):
    options = ("search.method=fisher", "search.calibration_batches=100000")
    with pytest.raises(ValueError, match=r"^search.calibration_batches: expected at most"):
        rehearsal.rehearse(scripts.settings(*options))


def test_fixed_masks_and_other_optimizers(nowhere, capsys):
    for override in ("train.method=fixed", "train.optimizer=adamw_decoupled"):
        with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW needs it
            rehearsal.rehearse(scripts.settings(override, "search.method=erk"))
        assert rows(capsys.readouterr().out)["train"][-1].startswith("loss ")


def test_defaults_need_no_imagenet(nowhere, capsys):
    config = settings.defaults()
    config.model.name = "resnet18"
    config.search.method = "dense"
    rehearsal.rehearse(config)
    assert "11,678,912 weights, 1,814,073,344 MACs" in capsys.readouterr().out


def test_the_script_keeps_nothing(tmp_path):
    environment = {"HOME": str(tmp_path), "TFDS_DATA_DIR": str(tmp_path / "data")}
    process = scripts.start("search", tmp_path / "run", "--config.dry_run", **environment)
    code, printed, error = scripts.end(process)
    assert code == 0, error
    assert "one step" in printed
    assert list(tmp_path.iterdir()) == []


def test_every_phase_saves_memory_as_it_is_told(monkeypatch, capsys):
    """Batches in parts and rematerialisation: lowered, not executed."""
    told = []

    def noting(name):
        function = getattr(steps, name)

        def call(*arguments, **options):
            told.append((name, *arguments[1:2]))
            return function(*arguments, **options)

        monkeypatch.setattr(steps, name, call)

    noting("accumulated")
    noting("recomputing")
    monkeypatch.setattr(rehearsal, "LARGEST_STEP", 0)
    rehearsal.rehearse(scripts.settings("accumulate=4", "remat=True"))
    assert told == [("recomputing",), ("accumulated", 4)] * 3
    assert capsys.readouterr().out.count("lowered in ") == 3
    rehearsal.rehearse(scripts.settings())
    assert len(told) == 6


def test_the_loss_of_the_search_saves_memory_as_it_is_told(tmp_path):
    """Its tables and statistics are made of gradients too."""
    programs = []
    for remat in (True, False):
        exp = experiment.build(scripts.settings(f"remat={remat}"), tmp_path, lambda: False)
        loss = steps.loss_of(exp, train=False)
        batch = {"inputs": np.zeros((2, 8, 8, 4), np.float32), "labels": np.zeros(2, np.int32)}
        program = jax.make_jaxpr(loss)(exp.model.params, exp.model.stats, batch)
        programs.append("remat" in str(program))
    assert programs == [True, False]

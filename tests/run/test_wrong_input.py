"""Wrong input of every kind: exit code 1 and one line that helps, before anything heavy starts."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import own
import pytest
import scripts
from absl import app, flags, logging
from wrong_input import CASES, OWN

from domino_jax.run import checkpoint, command_line, experiment, signals
from domino_jax.train.optim import learning_rate

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    code: int
    out: str
    lines: list[str]  # of stderr


def load(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = {name: load(name) for name in ("search", "train")}


def run(script, *arguments):
    """Calls the main of a script in this process, flags and all."""
    app.define_help_flags()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        patch.setattr(app, "run", lambda run, flags_parser: run(flags_parser(sys.argv)))
        stack.enter_context(restored())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        with pytest.raises(SystemExit) as ended:
            command_line.main(SCRIPTS[script].work, signals.catch_signals())
    return Outcome(ended.value.code, out.getvalue(), err.getvalue().splitlines())


@contextlib.contextmanager
def restored():
    """Puts back what a script changes for its whole process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    verbosity = logging.get_verbosity()
    try:
        yield
    finally:
        for name in ("config", "workdir", "anew"):
            flags.FLAGS[name].unparse()
        logging.set_verbosity(verbosity)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory after search.py: dense network, scheme, results."""
    folder = tmp_path_factory.mktemp("made")
    outcome = run("search", f"--config={OWN}", f"--workdir={folder}")
    assert outcome.code == 0, outcome
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_line_and_nothing_heavy(case, tmp_path, made):
    for name, text in case.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    given = case.arguments if isinstance(case.arguments, list) else case.arguments.split()
    arguments = [word.format(tmp=tmp_path, made=made) for word in given]
    own.READ.clear()
    before = sorted(made.rglob("*"))
    outcome = run(case.script, *case.config.split(), f"--workdir={tmp_path}/run", *arguments)
    assert (outcome.code, outcome.out, len(outcome.lines)) == (1, "", 1), outcome
    (line,) = outcome.lines
    for words in case.wanted:
        assert words in line
    assert len(line) < 500
    assert not re.search(r"Traceback|Error\b(?!:| \()", line)
    assert own.READ == []
    put = {Path(name) for name in case.files if name.startswith("run/")}
    assert (tmp_path / "run").exists() == bool(put)
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {".lock", *(path.parts[1] for path in put)}
    assert sorted(made.rglob("*")) == before


def test_there_are_enough():
    assert len(CASES) >= 40


def damage(folder):
    """Flips a bit in the largest file of the last checkpoint."""
    step = folder / str(checkpoint.latest(folder))
    path = max(filter(Path.is_file, step.rglob("*")), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("script", "part", "as_init"),
    [
        ("search", "dense", False),
        ("search", "search", False),
        ("search", "dense", True),
        ("train", "dense", False),
        ("train", "dense", True),
    ],
)
def test_damaged_checkpoints(script, part, as_init, tmp_path, made):
    shutil.copytree(made, tmp_path / "run")
    damage(tmp_path / "run" / part)
    arguments = [f"--workdir={tmp_path / ('new' if as_init else 'run')}"]
    if as_init:
        arguments += [f"--config.init={tmp_path}/run/dense", f"--config.scheme={made}/scheme.json"]
    own.READ.clear()
    outcome = run(script, f"--config={OWN}", *arguments)
    assert (outcome.code, len(outcome.lines)) == (1, 1), outcome
    assert f"run/{part}/" in outcome.lines[0]
    assert "damaged checkpoint" in outcome.lines[0]
    assert own.READ == []


RATES = {
    "dense": learning_rate("cosine", 0.1, 8),
    "search": lambda step: 0.01,
    "train": learning_rate("cosine", 0.05, 8, 4),
}


@pytest.mark.parametrize("phase", RATES)
def test_broken_loss(phase, tmp_path, made):
    arguments = [f"--config={OWN}", f"--workdir={tmp_path}", "--config.checkpoint_every=1"]
    if phase != "dense":
        arguments += [f"--config.init={made}/dense", f"--config.scheme={made}/scheme.json"]
    script = "train" if phase == "train" else "search"
    outcome = run(script, *arguments, "--config.data.name=own:one_nan")
    assert (outcome.code, len(outcome.lines)) == (1, 1), outcome
    found = re.search(r"the loss became nan at step (\d+)", outcome.lines[0])
    step = int(found[1])
    assert f"at the learning rate {float(RATES[phase](step)):.4g} ({phase}.lr)" in outcome.lines[0]
    assert "its inputs are NaN or infinite" in outcome.lines[0]
    folder = tmp_path / phase
    assert step > 0
    assert f"last good checkpoint, of step {step}, stays in {folder}" in outcome.lines[0]
    assert checkpoint.latest(folder) == step
    saved = scripts.arrays(folder)
    assert saved
    assert all(np.isfinite(array).all() for array in saved.values())
    assert run(script, *arguments, "--config.data.name=own:one_nan").lines == outcome.lines


def test_broken_loss_at_once(tmp_path):
    settings = ("lr=1e30", "schedule=constant", "weight_decay=0")
    lr = [f"--config.dense.{setting}" for setting in settings]
    (line,) = run("search", f"--config={OWN}", f"--workdir={tmp_path}", *lr).lines
    assert re.search(r"became (nan|inf) at step 1, at the learning rate 1e\+30 \(dense.lr\);", line)
    assert line.endswith("no checkpoint was saved before")
    assert checkpoint.latest(tmp_path / "dense") is None


def test_labels_of_a_batch(tmp_path):
    arguments = f"--config={OWN}", f"--workdir={tmp_path}", "--config.data.name=own:fewer_classes"
    outcome = run("search", *arguments)
    assert (outcome.code, len(outcome.lines)) == (1, 1), outcome
    assert "training batch 0" in outcome.lines[0]
    assert "from 0 to 1, got int32 from 0 to 2" in outcome.lines[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("failing", "data set 'own:failing': KeyError: 'lost' ("),
        ("unreadable", "data set 'own:unreadable': RuntimeError: no disk ("),
        ("unfinished", "data set 'own:unfinished': ZeroDivisionError: division by zero ("),
    ],
)
def test_a_data_set_that_fails_while_it_is_read(name, said, tmp_path):
    arguments = f"--config={OWN}", f"--workdir={tmp_path}", f"--config.data.name=own:{name}"
    outcome = run("search", *arguments)
    if name == "unfinished":  # a search evaluates nothing
        outcome = run("train", *arguments)
    assert outcome.code == 1
    assert outcome.lines[-1].startswith(said), outcome
    assert re.search(r"own\.py, line \d+\); DOMINO_TRACEBACK=1 shows more$", outcome.lines[-1])


def test_options_reach_the_factories(tmp_path):
    given = ("--config.model.features=16", "--config.data.labels=4", "--config.search.m=8")
    arguments = [
        f"--config={OWN}",
        f"--workdir={tmp_path}",
        *given,
        "--config.search.method=uniform",
    ]
    assert run("search", *arguments).code == 0
    rows = scripts.results(tmp_path)["search"]["layers"]
    shapes = {row["name"]: row["shape"] for row in rows}
    assert (shapes["hidden/kernel"], shapes["head/kernel"]) == ([8, 16], [16, 4])


@pytest.mark.parametrize(("name", "shape"), [("one_hot", [16, 3]), ("columns", [16, 1])])
def test_shape_of_labels(name, shape, tmp_path):
    arguments = f"--config={OWN}", f"--workdir={tmp_path}", f"--config.data.name=own:{name}"
    outcome = run("search", *arguments)
    assert (outcome.code, len(outcome.lines)) == (1, 1), outcome
    said = f"labels' of the data's batches are int32{shape}, outputs [16, 3] need labels [16]"
    assert said in outcome.lines[0]
    assert outcome.lines[0].endswith("one-hot labels: use argmax") == (name == "one_hot")


def test_python_numbers_are_parameters(tmp_path, made):
    name = "--config.model.name=own:with_float"
    outcome = run("search", f"--config={OWN}", f"--workdir={tmp_path}", name)
    assert outcome.code == 0, outcome
    assert scripts.arrays(tmp_path / "dense")


def test_traceback_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMINO_TRACEBACK", "1")
    name = "--config.model.name=own:with_bug"
    code, out, lines = run("search", f"--config={OWN}", f"--workdir={tmp_path}", name)
    assert (code, out, lines[0]) == (1, "", "Traceback (most recent call last):")
    assert "    return None + 1" in lines
    assert lines[-1].startswith("model 'own:with_bug': TypeError: unsupported operand")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (lambda *arguments: json.loads("{"), "JSONDecodeError: Expecting property name"),
        (lambda *arguments: None + 1, "TypeError: unsupported operand type"),
        (lambda *arguments: (_ for _ in ()).throw(KeyError), "KeyError;"),
    ],
    ids=["a library", "our own", "without words"],
)
def test_what_nobody_expected_is_said_to_be_a_fault(fails, said, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "build", fails)
    outcome = run("search", f"--config={OWN}", f"--workdir={tmp_path}")
    (line,) = outcome.lines
    assert (outcome.code, outcome.out) == (1, "")
    assert line.startswith(f"unexpected {said}")
    assert line.endswith("DOMINO_TRACEBACK=1 shows where")
    monkeypatch.setenv("DOMINO_TRACEBACK", "1")
    lines = run("search", f"--config={OWN}", f"--workdir={tmp_path}").lines
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", line)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("search", "--wrkdir=runs", "nearest: --workdir"),
        (
            "search",
            "--config.search.budget=1",
            "search.budget: expected a share above 0 and below 1",
        ),
        ("train", "", "run search.py first"),
        (
            "search",
            "--config.dense.lr=1e30 --config.dense.weight_decay=0",
            "the loss became",
        ),  # a progress bar was there
    ],
)
def test_processes(script, arguments, words, tmp_path):
    command = scripts.command(script, tmp_path / "run", *arguments.split(), config=OWN)
    paths = os.environ | {"PYTHONPATH": scripts.python_path(OWN.parent)}
    done = subprocess.run(command, cwd=ROOT, env=paths, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")


def test_a_workdir_that_is_a_flag():
    outcome = run("search", f"--config={OWN}", "--workdir", "--workdir=x")
    assert outcome.code == 1
    assert outcome.lines == ["--workdir: expected a folder, got '--workdir=x'"]

"""Runs search.py and train.py, as processes and in this one, for tests of what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from domino_jax.run import checkpoint, config_file, experiment, finetune, workdir
from domino_jax.run import overrides as overrides_
from domino_jax.run import search as find

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.py"
PHASES = ("dense", "search", "train")


def command(script, folder, *arguments, config=TINY):
    return [
        sys.executable,
        str(ROOT / f"{script}.py"),
        f"--config={config}",
        f"--workdir={folder}",
        *arguments,
    ]


def python_path(*folders):
    """Names folders of modules for a process, before those that are named already."""
    paths = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


# One device for processes, our modules, and quick compilation for short runs.
ENVIRONMENT = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "PYTHONPATH": python_path(ROOT, ROOT / "tests"),
}


def start(script, folder, *arguments, config=TINY, **environment):
    """Starts a script as the first process of a group."""
    return subprocess.Popen(
        command(script, folder, *arguments, config=config),
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    """Waits for a process; returns its exit code and what it printed."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def settings(*overrides, config=TINY):
    """Reads a config with overrides 'key=value' as the command line does."""
    _, given = overrides_.split([f"--config.{override}" for override in overrides])
    loaded = config_file.load(str(config))
    overrides_.apply(loaded, given, str(config))
    return loaded


def search(folder, *overrides, anew=False, should_stop=lambda: False, config=TINY):
    """Does in this process what search.py does."""
    exp = _build(folder, overrides, should_stop, config)
    with workdir.locked(folder):
        find.find_scheme(exp, anew=anew)


def train(folder, *overrides, anew=False, should_stop=lambda: False, config=TINY):
    """Does in this process what train.py does."""
    exp = _build(folder, overrides, should_stop, config)
    with workdir.locked(folder):
        if exp.config.evaluate:
            finetune.evaluate_only(exp)
        else:
            finetune.train_scheme(exp, anew=anew)


def _build(folder, overrides, should_stop, config):
    return experiment.build(settings(*overrides, config=config), folder, should_stop)


def files(folder):
    """Lists what is in a work directory, inside of checkpoints and numbers of events left out."""
    found = set()
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        inside = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts))
        name = "/".join(parts[: inside + 1])
        found.add("/".join([*name.split("/")[:-1], "events"]) if "tfevents" in name else name)
    return found


def arrays(folder, step=None):
    """Reads all leaves of a checkpoint, the last one by default."""
    step = checkpoint.latest(folder) if step is None else step
    leaves = json.loads((folder / str(step) / "leaves.json").read_text())["leaves"]
    template = {path: np.empty(shape, dtype) for path, (dtype, shape) in leaves.items()}
    return checkpoint.restore(folder, template, step)


def require_same_arrays(one, other):
    assert checkpoint.latest(one) == checkpoint.latest(other)
    ours, theirs = arrays(one), arrays(other)
    assert list(ours) == list(theirs)
    for path in ours:
        assert ours[path].tobytes() == theirs[path].tobytes(), path


def results(folder):
    return json.loads((folder / "results.json").read_text())


def require_same_end(one, other):
    """Compares two finished work directories bit by bit, but for the clocks."""
    for phase in (*PHASES, "train/sparse"):
        require_same_arrays(one / phase, other / phase)
    for name in ("scheme.json", "results.json", "search/votes.jsonl", "report.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    times = json.loads((other / "timing.json").read_text())
    assert set(times) == set(PHASES)
    assert all(value > 0 for phase in times.values() for value in phase.values())

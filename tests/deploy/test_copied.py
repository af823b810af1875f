"""The folder copied whole, with PyTorch alone: run as a file, as a package, imported, and here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax import deploy, find_layers, models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import grouped
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write

SOURCE = Path(deploy.__file__).parent
ROOT = SOURCE.parents[1]
# What a machine without them says: sitecustomize is imported before anything else.
BLOCKED = """import sys
sys.modules.update(dict.fromkeys(("jax", "jaxlib", "flax", "domino_jax")))
"""
QUICK = ("--device=cpu", "--seconds=0.0001", "--batch=2")


def _network(name, example, classes, **options):
    """Makes a network of random weights, every second layer of which keeps 2 of 4."""
    model = models.create(name, example=example, classes=classes, seed=0, **options)

    def forward(params, x):
        return model.apply(params, model.stats, x, train=False, key=None)[0]

    layers = find_layers(forward, model.params, example, 4)
    scheme = {s.name: NM((2, 4)[i % 2], 4) for i, s in enumerate(grouped(layers))}
    levels = n_by_path(scheme, layers)
    params = jax.jit(lambda p: hard_mask(p, layers, levels))(model.params)
    rng = np.random.default_rng(0)
    shape = (5, *example.shape[1:])
    inputs = (
        rng.normal(size=shape).astype(np.float32)
        if example.dtype == np.float32
        else rng.integers(0, classes, shape).astype(example.dtype)
    )
    return Network(name, options, model._replace(params=params), layers, scheme, inputs)


NETWORKS = {
    "resnet8": (jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32), 10, {}),
    "byte_lm": (
        jax.ShapeDtypeStruct((1, 12), jnp.uint8),
        19,
        {"width": 32, "depth": 1, "heads": 4},
    ),
}
LAYER = {"resnet8": "| layer3.0.conv2 | ", "byte_lm": "| blocks.0.attention.value | "}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds the copy and the exports, and nothing else."""
    place = tmp_path_factory.mktemp("deployment")
    shutil.copytree(SOURCE, place / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (example, classes, options) in NETWORKS.items():
        write(_network(name, example, classes, **options), place / name, dtype="float32")
    blocked = place / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCKED)
    return place


def _run(place, *command, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(place / "blocked")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd or place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_blocks_hold(place):
    for name in ("jax", "domino_jax"):
        assert "ModuleNotFoundError" in _run(place, "-c", f"import {name}").stderr


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("command", [["deploy/runtime.py"], ["-m", "deploy"]], ids=lambda c: c[-1])
def test_the_copy_runs(place, name, command):
    done = _run(place, *command, f"--check={name}", f"--costs={name}.costs.json", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert "top-1 1.0000" in done.stdout
    assert LAYER[name] in done.stdout
    assert (place / f"{name}.costs.json").exists()


def test_the_copy_runs_from_elsewhere_under_another_name(place, tmp_path):
    shutil.copytree(place / "deploy", tmp_path / "sparse-1.0" / "nm")
    for command in (["nm/runtime.py"], ["-m", "nm"], ["nm"]):
        done = _run(
            place, *command, f"--check={place / 'resnet8'}", *QUICK, cwd=tmp_path / "sparse-1.0"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "top-1 1.0000" in done.stdout


def test_the_copy_is_imported(place):
    code = "import torch; from deploy import networks; from deploy.runtime import load;"
    code += "model = load(networks.create('resnet8', classes=10, in_channels=1), 'resnet8', 'cpu',"
    code += " torch.float32); print(type(model).__module__)"
    done = _run(place, "-c", code)
    assert done.stdout == "deploy.resnet\n", done.stderr


def test_a_network_of_the_users_own_beside_the_copy(place):
    """A module of a name that the folder has too is the user's."""
    (place / "networks.py").write_text(
        "from deploy.networks import create\n"
        "def mine(): return create('resnet8', classes=10, in_channels=1)\n"
    )
    for command in (["deploy/runtime.py"], ["-m", "deploy"]):
        done = _run(place, *command, "--check=resnet8", "--model=networks:mine", *QUICK)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_command_runs_in_the_package(place):
    command = [sys.executable, "-m", "domino_jax.deploy.runtime", f"--check={place / 'byte_lm'}"]
    done = subprocess.run(
        [*command, *QUICK], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert LAYER["byte_lm"] in done.stdout


def test_without_pytorch_it_says_what_to_install(place):
    done = _run(place, "-S", "deploy/runtime.py", "--check=resnet8")  # -S: no packages
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "pip install torch" in line

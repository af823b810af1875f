"""The floors of the house: who may import whom, read from the import statements.

A new module needs a floor here; a new library needs a room.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "domino_jax"
ROOT = "domino_jax"  # its own __init__

# From the ground up; a module may import those of its own floor and of all below.
FLOORS = (
    {"named", "files", "scheme", "published", "masks", "erk", "factories"},
    {
        "views",
        "elementwise",
        "moves",
        "products",
        "trace",
        "activations",
        "grouping",
        "layers",
        "budget",
    },
    {"sparsify", "pace"},
    {"search", "stuck", "uniform", "erk_scheme"},
    {"losses", "optim", "devices", "workdir", "report", "monitor"},
    {"semi_structured", "torch_layout", "torch_import", "exported", "fold"},
    {"loop", "evaluation"},
    {
        *(
            "settings",
            "flag_errors",
            "checks",
            "record",
            "phases",
            "experiment",
            "steps",
            "dense",
            "dry_run",
            "find",
            "tune",
            "cli",
        ),
        *("export_document", "export_writer", "onnx_file", "export"),
    },
)
CORE, TOP = set().union(*FLOORS[:4]), FLOORS[-1]
# Side rooms know these modules and themselves; only the top floor (and the package) knows them.
SIDE_ROOMS = {
    "models": {"named", "factories"},
    "data": {"named", "factories"},
    "checkpoint": {"named"},
    # PyTorch alone, no JAX: these files are copied next to a deployment.
    "torch_models": {"torch_language"},
    "torch_language": set(),
    "torch_attention": set(),
    "torch_runtime": {"torch_attention", "torch_models", "torch_tune"},
    "torch_tune": {"torch_runtime"},
}
PYTORCH = {room for room in SIDE_ROOMS if room.startswith("torch_")}
WITH_OPTAX = {"sparsify", "losses", "optim", "loop", *TOP}
LIBRARIES = {
    "jax": {"*"},
    "numpy": {"*"},
    "optax": WITH_OPTAX,
    "rich": {"report", "monitor", *TOP},
    "matplotlib": {"report"},
    "tensorboardX": {"monitor"},
    "flax": {"models"},
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "cv2": {"data"},
    "PIL": {"data"},
    "sklearn": {"data"},
    "scipy": {"data"},
    "ml_collections": TOP,
    "absl": {"data", *TOP},
}
STANDARD_LIBRARY_ONLY = {"files", "scheme", "published", "erk", "factories"}
INSIDE_FUNCTIONS_ONLY = {
    "torch": {"torch_import", "export_writer", "onnx_file"},
    "safetensors": {"torch_import", "exported", "export_writer", "onnx_file"},
    "onnx": {"onnx_file"},
    "onnxruntime": {"onnx_file"},
}


def modules():
    """Lists the names of all modules: 'search', 'models.resnet', 'models' for its __init__."""
    names = [path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    joined = (".".join(p for p in parts if p != "__init__") for parts in names)
    return sorted(name or ROOT for name in joined)


def source_of(module):
    if module == ROOT:
        return (PACKAGE / "__init__.py").read_text()
    path = PACKAGE.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


MODULES = modules()


def imports(source):
    """Yields (module with its dots, True inside a function) of every import statement."""
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{module}.{alias.name}".removeprefix(f"{ROOT}.")
                yield full if module == ROOT and full in MODULES else module, id(node) in inside


def floor_of(room):
    return next((number for number, floor in enumerate(FLOORS) if room in floor), None)


def may_import(room, other):
    """Says whether a room may import another one of ours."""
    if room == other:
        return True
    if room == ROOT:
        return other in CORE | {"models"}
    if room in SIDE_ROOMS:
        return other in SIDE_ROOMS[room]
    if other in SIDE_ROOMS or other == ROOT:
        return room in TOP
    return floor_of(other) is not None and floor_of(other) <= floor_of(room)


def may_use(room, library, inside):
    """Says whether a room may import a library; None if the library has no room."""
    if library in sys.stdlib_module_names:
        return True
    if room in PYTORCH:
        return library in {"torch", "safetensors"}
    if library in INSIDE_FUNCTIONS_ONLY:
        return inside and room in INSIDE_FUNCTIONS_ONLY[library]
    if library not in LIBRARIES:
        return None
    if room in STANDARD_LIBRARY_ONLY:
        return False
    return bool({room, "*"} & LIBRARIES[library])


def faults(module, source):
    """Lists what is wrong with the imports of a module."""
    room = module.split(".")[0]
    if room != ROOT and room not in SIDE_ROOMS and floor_of(room) is None:
        return [f"{module}: give it a floor in {Path(__file__).name}"]
    found = []
    for name, inside in imports(source):
        first, *rest = name.split(".")
        if not first:
            found.append(f"{module}: relative import {name}")
        elif first == ROOT or name in MODULES:
            other = (rest or [ROOT])[0] if first == ROOT else first
            if not may_import(room, other):
                found.append(f"{module}: arrow upward to {other}")
        elif (allowed := may_use(room, first, inside)) is None:
            found.append(f"{module}: {first} has no room, give it one in {Path(__file__).name}")
        elif not allowed:
            found.append(f"{module}: may not import {first}{'' if inside else ' here'}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_upward(module):
    assert faults(module, source_of(module)) == []


def test_every_module_is_found_and_every_floor_is_lived_on():
    assert {ROOT, "search", "models", "models.resnet", "data", "data.digits"} <= set(MODULES)
    rooms = {module.split(".")[0] for module in MODULES}
    assert set().union(*FLOORS) | set(SIDE_ROOMS) | {ROOT} == rooms


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("search", "from domino_jax import loop", "search: arrow upward to loop"),
        ("search", "from domino_jax.loop import Hooks", "search: arrow upward to loop"),
        ("search", "import domino_jax.loop as l", "search: arrow upward to loop"),
        ("search", "def f():\n  from domino_jax import loop", "search: arrow upward to loop"),
        ("named", "from domino_jax.budget import exact", "named: arrow upward to budget"),
        ("sparsify", "from domino_jax.search import x", "sparsify: arrow upward to search"),
        ("optim", "from domino_jax import loop", "optim: arrow upward to loop"),
        ("loop", "from domino_jax import checkpoint", "loop: arrow upward to checkpoint"),
        ("loop", "from domino_jax.models import Model", "loop: arrow upward to models"),
        ("loop", "from domino_jax import __version__", "loop: arrow upward to domino_jax"),
        ("models.resnet", "from domino_jax import data", "models.resnet: arrow upward to data"),
        ("models", "from domino_jax import masks", "models: arrow upward to masks"),
        ("checkpoint", "from domino_jax import factories", "checkpoint: arrow upward to factories"),
        ("domino_jax", "from domino_jax import loop", "domino_jax: arrow upward to loop"),
        ("loop", "from . import search", "loop: relative import ."),
        ("search", "def f():\n  import flax", "search: may not import flax"),
        ("loop", "from flax import nnx", "loop: may not import flax here"),
        ("budget", "import optax", "budget: may not import optax here"),
        ("stuck", "from ml_collections import ConfigDict", "stuck: may not import ml_collections"),
        ("models.resnet", "import orbax.checkpoint", "models.resnet: may not import orbax here"),
        ("find", "import orbax.checkpoint", "find: may not import orbax here"),
        ("data", "import tensorflow as tf", "data: tensorflow has no room"),
        ("scheme", "import numpy as np", "scheme: may not import numpy here"),
        ("loop", "def f():\n  import torch", "loop: may not import torch"),
        ("masks", "import pandas", "masks: pandas has no room"),
        ("export_writer", "import torch", "export_writer: may not import torch here"),
        ("torch_runtime", "import jax", "torch_runtime: may not import jax here"),
        ("torch_tune", "from domino_jax import named", "torch_tune: arrow upward to named"),
        ("torch_import", "from domino_jax import export", "torch_import: arrow upward to export"),
        ("novelty", "", "novelty: give it a floor"),
    ],
)
def test_arrows_upward_are_seen(module, source, fault):
    (found,) = faults(module, source)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("search", "import math\nfrom domino_jax import masks\nfrom domino_jax.pace import x"),
        (
            "models.resnet",
            "from flax import nnx\nfrom domino_jax.models.batch_norm import BatchNorm",
        ),
        ("data.digits", "def f():\n  import tensorflow_datasets as tfds"),
        ("find", "from domino_jax import __version__, data\nfrom domino_jax.data import Data"),
        ("domino_jax", "from domino_jax.models import Model\nfrom domino_jax.search import domino"),
    ],
)
def test_arrows_downward_are_allowed(module, source):
    assert faults(module, source) == []


def test_no_cycles():
    """Within a floor too, no module imports itself by way of others."""
    below = {
        module: {name.removeprefix(f"{ROOT}.") for name, _ in imports(source_of(module))}
        for module in MODULES
    }
    left = {module: others & set(MODULES) - {module} for module, others in below.items()}
    while ready := [module for module, others in left.items() if not others]:
        left = {m: others - set(ready) for m, others in left.items() if m not in ready}
    assert left == {}


def test_the_library_alone_loads_no_side_room():
    code = "import sys, domino_jax; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.check_output(command, text=True, cwd=PACKAGE.parent)
    loaded = {name.split(".")[0] for name in output.split()}
    heavy = {"flax", "orbax", "grain", "tensorflow_datasets", "sklearn", "ml_collections"}
    heavy |= {"matplotlib", "rich", "tensorboardX", "torch", "tensorflow"}
    assert "jax" in loaded
    assert loaded & heavy == set()

"""The rooms of the house: which room may import which, and which libraries, off one table.

A new module belongs to a room (a folder); a new library needs a room here.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "domino_jax"
OURS = "domino_jax"
COMMANDS = ("compare", "export", "public", "settings")  # modules of the package itself


class Room(NamedTuple):
    """A folder: the rooms that it may import, libraries, and libraries only within functions."""

    below: set[str]
    libraries: set[str]
    late: set[str] = frozenset()


# From the ground up.
ROOMS = {
    "core": Room(set(), {"jax", "numpy"}),
    "trace": Room({"core"}, {"jax", "numpy"}),
    "allocate": Room({"core", "trace"}, {"jax", "numpy", "scipy"}),
    "train": Room({"core", "trace", "allocate"}, {"jax", "numpy", "optax"}),
    "models": Room({"core", "deploy"}, {"jax", "numpy", "flax"}),
    "data": Room(
        {"core"},
        {"jax", "numpy", "grain", "tensorflow_datasets", "cv2", "PIL", "sklearn", "scipy", "absl"},
        {"tokenizers"},
    ),
    # PyTorch alone, no JAX: the folder is copied next to a deployment.
    "deploy": Room(set(), {"torch", "safetensors"}),
    "pytorch": Room(
        {"core", "trace", "train", "models", "deploy"},
        {"jax", "numpy"},
        {"torch", "safetensors", "onnx", "onnxruntime"},
    ),
    "run": Room(
        {"core", "trace", "allocate", "train", "models", "data", "deploy", "pytorch"},
        {
            *("jax", "numpy", "optax", "orbax", "ml_collections", "absl"),
            *("rich", "matplotlib", "tensorboardX"),
        },
    ),
}
PUBLIC = {"core", "trace", "allocate", "train", "models"}  # what `__init__` re-exports
MOST_ARROWS = 60


def modules():
    """Lists the names of all modules: 'core.masks', 'core' for its __init__, '' for ours."""
    names = [path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(part for part in parts if part != "__init__") for parts in names)


def source_of(module):
    path = PACKAGE.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


MODULES = modules()


def imports(module, source):
    """Yields (module with its dots, True inside a function) of every import statement."""
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            if node.level == 1 and room_of(module) == "deploy":  # which runs under any name
                origin = f"{OURS}.deploy{origin.rstrip('.')}"
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                ours = full.removeprefix(f"{OURS}.") in MODULES and full.startswith(f"{OURS}.")
                yield full if ours else origin, id(node) in inside


def room_of(module):
    """Returns the room of one of our modules; '' for the package itself and its commands."""
    room = module.split(".")[0]
    return "" if room in ("", *COMMANDS) else room


def may_import(room, other):
    """Says whether a room may import another one of ours."""
    if room == other:
        return True
    if room == "":
        return other in ROOMS
    return other in ROOMS[room].below or (other == "" and room == "run")


def may_use(room, library, inside):
    """Says whether a room may import a library; None if the library has no room."""
    if library in sys.stdlib_module_names:
        return True
    known = set().union(*(r.libraries | r.late for r in ROOMS.values()))
    if library not in known:
        return None
    rooms = [ROOMS[room]] if room else [ROOMS["run"]]
    return any(library in r.libraries or (inside and library in r.late) for r in rooms)


def faults(module, source):
    """Lists what is wrong with the imports of a module."""
    room = room_of(module)
    if room and room not in ROOMS:
        return [f"{module}: {room} is no room, give it one in {Path(__file__).name}"]
    found = []
    for name, inside in imports(module, source):
        first = name.split(".")[0]
        if not first:
            found.append(f"{module}: relative import {name}")
        elif first == OURS:
            other = room_of(name.removeprefix(OURS).removeprefix("."))
            if not may_import(room, other):
                found.append(f"{module}: arrow upward to {other or OURS}")
        elif (allowed := may_use(room, first, inside)) is None:
            found.append(f"{module}: {first} has no room, give it one in {Path(__file__).name}")
        elif not allowed:
            found.append(f"{module}: may not import {first}{'' if inside else ' here'}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_points_upward(module):
    assert faults(module, source_of(module)) == []


def test_every_room_is_lived_in_and_nothing_else_lies_flat():
    folders = {module.split(".")[0] for module in MODULES if module and module not in COMMANDS}
    assert folders == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *COMMANDS}


def test_the_house_has_few_arrows():
    """An arrow: modules of one folder import modules of another."""
    arrows = {
        (room_of(module), room_of(name.removeprefix(f"{OURS}.")))
        for module in MODULES
        for name, _ in imports(module, source_of(module))
        if name.startswith(OURS)
    }
    assert len({(a, b) for a, b in arrows if a != b}) <= MOST_ARROWS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_sentence_on_its_door(room):
    sentence = ast.get_docstring(ast.parse(source_of(room))).partition("\n")[0]
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("core.x", "from domino_jax.trace import walk", "core.x: arrow upward to trace"),
        ("core.x", "import domino_jax.run.cli as c", "core.x: arrow upward to run"),
        ("trace.x", "from domino_jax.allocate.paces import x", "trace.x: arrow upward to allocate"),
        ("allocate.x", "def f():\n  from domino_jax import train", "allocate.x: arrow upward"),
        ("train.x", "from domino_jax.run import workdir", "train.x: arrow upward to run"),
        ("train.x", "from domino_jax.models import Model", "train.x: arrow upward to models"),
        ("train.x", "from domino_jax import __version__", "train.x: arrow upward to domino_jax"),
        ("models.x", "from domino_jax import data", "models.x: arrow upward to data"),
        ("data.sets.x", "from domino_jax import models", "data.sets.x: arrow upward to models"),
        ("deploy.x", "from domino_jax.core import masks", "deploy.x: arrow upward to core"),
        ("pytorch.x", "from domino_jax import export", "pytorch.x: arrow upward to domino_jax"),
        ("pytorch.x", "from domino_jax.run import settings", "pytorch.x: arrow upward to run"),
        ("train.x", "from . import loop", "train.x: relative import ."),
        ("train.x", "def f():\n  import flax", "train.x: may not import flax"),
        ("core.x", "import optax", "core.x: may not import optax here"),
        ("allocate.x", "from ml_collections import C", "allocate.x: may not import ml_collections"),
        ("models.x", "import orbax.checkpoint", "models.x: may not import orbax here"),
        ("data.x", "import tensorflow as tf", "data.x: tensorflow has no room"),
        ("train.x", "def f():\n  import torch", "train.x: may not import torch"),
        ("pytorch.x", "import torch", "pytorch.x: may not import torch here"),
        ("deploy.x", "import jax", "deploy.x: may not import jax here"),
        ("deploy.x", "from ..core import masks", "deploy.x: relative import ..core"),
        ("novelty.x", "", "novelty.x: novelty is no room"),
    ],
)
def test_arrows_upward_are_seen(module, source, fault):
    (found,) = faults(module, source)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("allocate.x", "import math\nfrom domino_jax.core import masks"),
        ("models.x", "from flax import nnx\nfrom domino_jax.models.batch_norm import BatchNorm"),
        ("data.sets.x", "def f():\n  import tensorflow_datasets as tfds"),
        ("run.x", "from domino_jax import __version__, data\nfrom domino_jax.data import Data"),
        ("pytorch.x", "def f():\n  import torch"),
        ("deploy.x", "from . import packing\nfrom .packing import packed"),
        ("", "from domino_jax.models import Model\nfrom domino_jax.allocate.domino import domino"),
    ],
)
def test_arrows_downward_are_allowed(module, source):
    assert faults(module, source) == []


def test_no_cycles():
    """Within a room too, no module imports itself by way of others."""
    below = {
        module: {name.removeprefix(f"{OURS}.") for name, _ in imports(module, source_of(module))}
        for module in MODULES
    }
    left = {module: others & set(MODULES) - {module} for module, others in below.items()}
    while ready := [module for module, others in left.items() if not others]:
        left = {m: others - set(ready) for m, others in left.items() if m not in ready}
    assert left == {}


def test_the_library_alone_loads_no_heavy_package():
    code = "import sys, domino_jax; domino_jax.domino; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.check_output(command, text=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in output.split()}
    heavy = {"flax", "orbax", "grain", "tensorflow_datasets", "sklearn", "ml_collections"}
    heavy |= {"matplotlib", "rich", "tensorboardX", "torch", "tensorflow"}
    assert "jax" in loaded
    assert loaded & heavy == set()


def test_a_file_holds_one_idea():
    lengths = {
        path.name: len(path.read_text().splitlines())
        for path in (ROOT / "domino_jax").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert sorted(lengths.values())[len(lengths) // 2] < 200

import subprocess
import sys

import jax
import numpy as np
import pytest

from domino_jax import data
from domino_jax.core.errors import InputError
from domino_jax.data import own
from domino_jax.data.pipeline import evaluate_batches, train_batches

MODULE = """
from domino_jax.data import Data
import jax, numpy as np

def factory(*, data_dir, workers, size=4):
    return Data(
        train=None, evaluate=None, example=jax.ShapeDtypeStruct((1, size), np.float32),
        classes=int(data_dir), train_size=size, test_size=0, workers=workers,
    )

def nothing(*, data_dir, workers):
    return None

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user, with factories."""
    (tmp_path / "my_sets.py").write_text(MODULE)
    (tmp_path / "broken_sets.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_sets"
    sys.modules.pop("my_sets", None)


def test_names():
    assert "digits" in data.names()
    assert data.names() == tuple(sorted(data.names()))


def test_a_factory_gets_folder_workers_and_options(module):
    made = data.create(f"{module}:factory", data_dir="7", workers=2, size=5)
    assert (made.classes, made.workers, made.train_size) == (7, 2, 5)
    assert made.example == jax.ShapeDtypeStruct((1, 5), np.float32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown data set 'digit'; nearest: digits"),
        ("", {}, "unknown data set ''; nearest: cifar10, cifar100, digits"),
        ("my_sets:factry", {}, "unknown factory of my_sets 'factry'; nearest: factory"),
        ("my_sets:constant", {}, "unknown factory of my_sets 'constant'"),
        ("my_sets:", {}, "data set: expected a known name or .*, got 'my_sets:'"),
        (":factory", {}, "data set: expected a known name or .*, got ':factory'"),
        (".my_sets:factory", {}, "data set: expected a known name or .*, got '.my_sets:factory'"),
        ("my_set:factory", {}, "'my_set:factory': cannot import my_set: ModuleNotFoundError"),
        ("broken_sets:factory", {}, "cannot import broken_sets.*no_such_module"),
        ("my_sets:factory", {"sise": 3}, "'my_sets:factory'.*'sise'; it takes .*size=4"),
        (
            "my_sets:nothing",
            {},
            "'my_sets:nothing': expected a .*Data of the factory, got NoneType",
        ),
        ("digits", {"augmnt": True}, "data set 'digits'.*'augmnt'; it takes .*augment"),
        ("digits", {"workers": -1}, "workers must be 0 or more, got -1"),
    ],
)
def test_wrong_names_and_options(module, name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.create(name, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        data.spec(name, **options)


def test_importing_is_cheap():
    heavy = "('grain', 'tensorflow_datasets', 'sklearn', 'tensorflow', 'cv2', 'PIL')"
    code = f"import sys, domino_jax.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_data_of_ones_own_is_three_lines():
    records = [{"inputs": np.zeros(3, np.float32), "labels": np.int32(k)} for k in range(5)]
    made = data.Data(
        train=lambda seed, batch, **processes: train_batches(records, seed, batch, **processes),
        evaluate=lambda batch, **processes: evaluate_batches(records, batch, **processes),
        example=jax.ShapeDtypeStruct((1, 3), np.float32),
        classes=5,
        train_size=5,
        test_size=5,
    )
    assert made.workers == 0
    assert made.train(0, 4)[0]["inputs"].shape == (4, 3)
    assert sum(batch["weight"].sum() for batch in made.evaluate(2)) == 5


def test_a_data_set_that_ends_the_program_is_named():
    def ends(*arguments):
        sys.exit(0)

    with pytest.raises(InputError, match=r"^data set 'mine:data': SystemExit: 0"):
        own.train("mine:data", ends)
    with pytest.raises(InputError, match=r"^data set 'mine:data': SystemExit: 0"):
        list(own.evaluate("mine:data", ends))

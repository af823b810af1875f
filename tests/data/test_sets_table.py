"""One table of data sets: each entry is two functions of the same options; one's own is one."""

import inspect
from importlib import import_module

import numpy as np
import pytest

from domino_jax import data


@pytest.mark.parametrize("name", data.DATA_SETS)
def test_every_entry_opens_and_describes_with_the_same_options(name):
    entry = data.DATA_SETS[name]
    module = import_module(entry.module)
    create, spec = (
        inspect.signature(getattr(module, function)) for function in (entry.create, entry.spec)
    )
    assert list(create.parameters.values()) == list(spec.parameters.values())
    assert {"data_dir", "workers"} <= create.parameters.keys()


@pytest.mark.parametrize("name", sorted(set(data.DATA_SETS) - {"folder", "text"}))
def test_every_entry_can_be_described_without_its_data(name, tmp_path):
    found = data.spec(name, data_dir=str(tmp_path))
    assert found.example.shape[0] == found.label.shape[0] == 1
    assert found.classes > 1
    assert found.train_size > found.test_size > 0
    assert list(tmp_path.iterdir()) == []


def test_one_of_ones_own_by_package_and_function(tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sets.py").write_text(
        "import numpy as np\n"
        "from domino_jax.data.arrays import from_arrays\n"
        "def parity(*, data_dir, workers, size=8):\n"
        "    part = np.arange(size, dtype=np.float32)[:, None], np.arange(size) % 2\n"
        "    return from_arrays(part, part, classes=2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = data.create("outside.sets:parity", size=6)
    described = data.spec("outside.sets:parity", size=6)
    assert made.train_size == described.train_size == 6
    assert (described.example, described.label.dtype) == (made.example, np.int32)
    batch = made.train(0, 6)[0]
    np.testing.assert_array_equal(batch["inputs"][:, 0] % 2, batch["labels"])

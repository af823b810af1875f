"""The same seed gives the same bits: again, elsewhere, and whoever reads the data.

Not on another number of devices or processes: sums over a batch are then made in another order.
"""

import json

import numpy as np
import pytest
import scripts
import tiny

from domino_jax.core.scheme import load_document
from domino_jax.run import checkpoint

QUICK = ("dense.epochs=0.5", "train.epochs=0.5", "train.warmup_epochs=0.1")


def read_by_workers(*, data_dir, workers):
    return tiny.blobs(data_dir=data_dir, workers=workers)._replace(workers=workers)


def run(folder, *settings):
    for act in (scripts.search, scripts.train):
        act(folder, *QUICK, f"data.name={__name__}:read_by_workers", *settings)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("made") / "run")


def test_twice_in_two_folders(made, tmp_path):
    scripts.require_same_end(made, run(tmp_path / "else where"))


def test_another_seed_gives_other_bits(made, tmp_path):
    scripts.search(tmp_path, *QUICK, f"data.name={__name__}:read_by_workers", "seed=1")
    ours, theirs = (scripts.arrays(folder / "dense") for folder in (made, tmp_path))
    assert any(not np.array_equal(ours[path], theirs[path]) for path in ours)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_with_workers(made, tmp_path, workers):
    run(tmp_path, f"data.workers={workers}")
    for phase in (*scripts.PHASES, "train/sparse"):
        scripts.require_same_arrays(made / phase, tmp_path / phase)
    one, other = (load_document(folder / "scheme.json") for folder in (made, tmp_path))
    assert one.pop("config")["data"]["workers"] == 0
    assert other.pop("config")["data"]["workers"] == workers
    assert one == other
    assert scripts.results(made) == scripts.results(tmp_path)


def test_the_scheme_says_what_it_is_made_of(made, tmp_path):
    document = load_document(made / "scheme.json")
    assert document["config"]["seed"] == 0
    assert len(document["fingerprints"].pop("data.fingerprint")) == 16
    assert document["fingerprints"] == {}
    table = {path: {"1": 1, "2": 2, "4": 3} for path in document["layers"]}
    (tmp_path / "costs.json").write_text(json.dumps(table))
    losses = {path: {"1": 2, "2": 1, "4": 0} for path in document["layers"]}
    (tmp_path / "losses.json").write_text(json.dumps({"format": 1, "layers": losses}))
    settings = (
        *(f"init={made / 'dense'}", f"search.objective={tmp_path / 'costs.json'}"),
        *(
            "search.method=table",
            f"search.table={tmp_path / 'losses.json'}",
            "search.budget=0.7",
            "search.calibration_batches=2",
        ),
    )
    scripts.search(tmp_path / "run", *settings)
    prints = load_document(tmp_path / "run" / "scheme.json")["fingerprints"]
    keys = {"init.content", "search.objective.content", "search.table.content"}
    assert set(prints) == keys | {"data.fingerprint"}
    assert all(len(each) == 16 for each in prints.values())
    # What the table says now is another input.
    (tmp_path / "losses.json").write_text(json.dumps({"format": 1, "layers": losses, "new": 1}))
    with pytest.raises(ValueError, match=r"the loss table .*losses.json .*has changed since"):
        scripts.search(tmp_path / "run", *settings)
    assert checkpoint.latest(tmp_path / "run" / "search") is None

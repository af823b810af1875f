"""Work directories and scheme files of before the rooms: written by commit 729630f, read today."""

import tarfile
from pathlib import Path

import pytest
import scripts

from domino_jax import export
from domino_jax.core.scheme import NM, load
from domino_jax.pytorch import exported
from domino_jax.run import workdir

PACKED = Path(__file__).parent / "before" / "run.tar.gz"
SCHEME = {"stem/kernel": NM(2, 4), "body/kernel": NM(1, 4), "fc/kernel": NM(4, 4)}


@pytest.fixture
def before(tmp_path):
    """The work directory of search.py and train.py with tests/tiny.py."""
    with tarfile.open(PACKED) as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_the_scheme_is_read(before):
    assert load(before / "scheme.json") == SCHEME


def test_it_is_evaluated_as_it_was(before):
    was = workdir.read_json(before / "results.json")["train"]
    scripts.train(before, "evaluate=True")
    now = scripts.results(before)["train"]
    assert set(now) == set(was)
    for stage in ("dense", "masked", "recalibrated", "tuned"):
        assert now[stage] == pytest.approx(was[stage], rel=1e-5)


def test_its_training_is_done(before):
    """The same command goes on from what is there: nothing is trained again."""
    steps = workdir.read_json(before / "timing.json")
    scripts.train(before)
    assert workdir.read_json(before / "timing.json") == steps


def test_it_is_exported(before, tmp_path):
    assert export.main([f"--workdir={before}", f"--out={tmp_path / 'out'}"]) == 0
    assert set(exported.read_document(tmp_path / "out")["layers"]) == set(SCHEME)


def test_its_scheme_trains_elsewhere(before, tmp_path):
    scheme = before / "scheme.json"
    (tmp_path / "new").mkdir()
    scripts.train(tmp_path / "new", f"init={before / 'dense'}", f"scheme={scheme}")
    assert scripts.results(tmp_path / "new")["train"]["tuned"]["accuracy"] > 0.8

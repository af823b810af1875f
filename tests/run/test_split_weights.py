"""Runs whose weights are split over devices, and go on where they are not."""

import json

import pytest
import scripts

from domino_jax.train import loop, placement


@pytest.fixture(autouse=True)
def all_weights_are_large(monkeypatch):
    monkeypatch.setattr(placement, "SMALL", 1)


def scheme(folder):
    return json.loads((folder / "scheme.json").read_text())["layers"]


def test_a_run_goes_on_under_another_mesh(tmp_path):
    """Two parts of every weight, then two of every batch: the scheme is that of an unbroken run."""
    scripts.search(tmp_path / "whole")
    asked = iter(range(1000))
    with pytest.raises(loop.Stopped):  # at the 25th step, of the search
        scripts.search(tmp_path / "split", "mesh.model=2", should_stop=lambda: next(asked) == 24)
    scripts.search(tmp_path / "split")
    assert scheme(tmp_path / "split") == scheme(tmp_path / "whole")
    scripts.train(tmp_path / "split", "mesh.model=2")
    tuned = scripts.results(tmp_path / "split")["train"]["tuned"]
    scripts.train(tmp_path / "whole")
    assert tuned["loss"] == pytest.approx(
        scripts.results(tmp_path / "whole")["train"]["tuned"]["loss"], rel=1e-3
    )


def test_a_mesh_of_other_devices_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mesh\.data x mesh\.model: expected the 2 device"):
        scripts.search(tmp_path, "mesh.data=3")

"""search.py spends its budget to the end, and mends a search that stands still near it."""

import pytest
import scripts

from domino_jax.core.scheme import load
from domino_jax.train.loop import Stuck

STILL = ("search.penalty=0.0", "search.patience=3")  # nothing decays, so no n changes


def totals(folder):
    return scripts.results(folder)["search"]["totals"]["cost"]


def test_a_search_spends_what_its_last_vote_saved(tmp_path, capsys):
    scripts.search(tmp_path, "search.budget=0.5")
    found = totals(tmp_path)
    scheme = load(tmp_path / "scheme.json")
    assert found["scheme"] <= found["budget"]
    sizes = {"stem/kernel": 288, "body/kernel": 1152, "fc/kernel": 48}
    for name, nm in scheme.items():
        if nm.n < 4:  # its next candidate is twice as much
            assert found["scheme"] + sizes[name] * nm.n / 4 > found["budget"]
    assert "exact finish: " in capsys.readouterr().err


def test_a_search_that_stands_still_near_its_budget_is_finished_and_says_so(tmp_path, capsys):
    scripts.search(tmp_path, "search.budget=0.97", *STILL)
    assert totals(tmp_path)["scheme"] <= totals(tmp_path)["budget"]
    said = capsys.readouterr().err
    assert "layers keep fewer weights, 1.0000 -> " in said
    assert "that search stood still near its budget: no n changed for 3 votes" in said
    first = (tmp_path / "scheme.json").read_text()
    scripts.search(tmp_path, "search.budget=0.97", *STILL)  # again, from its checkpoint
    assert (tmp_path / "scheme.json").read_text() == first


def test_a_search_that_stands_still_far_from_its_budget_fails(tmp_path):
    with pytest.raises(Stuck, match="no n changed for 3 votes"):
        scripts.search(tmp_path, "search.budget=0.5", *STILL)
    assert not (tmp_path / "scheme.json").exists()

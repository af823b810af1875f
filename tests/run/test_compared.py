"""search.py compares any method's scheme with uniform, refines it, and meets several budgets."""

import json

import pytest
import scripts

from domino_jax.core.scheme import load

FEW = "search.calibration_batches=2"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Trains the dense network that the others start from."""
    folder = tmp_path_factory.mktemp("dense")
    scripts.search(folder, FEW, "search.method=fisher", "search.refine=4")
    return folder


def trials(folder):
    return scripts.results(folder)["search"]["trials"]


def totals(folder):
    return scripts.results(folder)["search"]["totals"]


def test_trials_and_times_are_written(dense):
    written = trials(dense)
    # The one that is taken comes first; a rival within the noise of the batches may be below it.
    (uniform,) = (trial["true"] for trial in written if trial["name"] == "uniform")
    assert written[0]["true"] <= uniform
    assert all(trial["predicted"] > 0 for trial in written)
    times = json.loads((dense / "timing.json").read_text())["search"]
    assert set(times) == {"fisher_seconds", "schemes_seconds", "refine_seconds"}
    assert min(times.values()) > 0


@pytest.mark.parametrize("method", ["domino", "erk", "instant"])
def test_any_method_is_guarded(method, dense, tmp_path, capsys):
    options = (FEW, f"search.method={method}", "search.guard=uniform", "search.refine=3")
    scripts.search(tmp_path, *options, f"init={dense / 'dense'}")
    written = trials(tmp_path)
    names = {trial["name"] for trial in written}
    assert {method, "uniform"} <= names
    assert {trial["predicted"] for trial in written} == {None}
    cost = totals(tmp_path)["cost"]
    assert cost["scheme"] <= cost["budget"]
    said = capsys.readouterr().out
    assert f"{method}: {written[0]['name']} is taken; the loss of each" in said
    assert "exchanges help: the loss" in said
    first = load(tmp_path / "scheme.json")
    scripts.search(tmp_path, *options, f"init={dense / 'dense'}")
    assert load(tmp_path / "scheme.json") == first


@pytest.mark.parametrize("method", ["domino", "fisher"])
def test_further_budgets_hold(method, dense, tmp_path, capsys):
    table = tmp_path / "ms.json"
    table.write_text('{"stem/kernel": 1.0, "body/kernel": 2.0, "fc/kernel": 9.0}')
    options = (
        FEW,
        f"search.method={method}",
        f"search.budgets=(('macs','40%'),('{table}',0.3))",
        f"init={dense / 'dense'}",
    )
    scripts.search(tmp_path / "run", *options)
    found = totals(tmp_path / "run")
    assert set(found["beside"]) == {"macs", str(table)}
    for cost in (found["cost"], *found["beside"].values()):
        assert cost["scheme"] <= cost["budget"]
    printed = capsys.readouterr().out
    assert "(40.00%)" in printed
    assert "cost by ms.json" in printed
    table.write_text('{"stem/kernel": 1.0, "body/kernel": 2.0, "fc/kernel": 8.0}')
    with pytest.raises(
        ValueError, match=r"the cost tables .* \(search.budgets\) has changed since"
    ):
        scripts.search(tmp_path / "run", *options)

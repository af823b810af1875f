"""search.py by the loss: the table on disk, going on after a stop, tables from elsewhere."""

import itertools
import json
import shutil

import pytest
import scripts

from domino_jax.core.scheme import load
from domino_jax.train.loop import Stopped

FEW = "search.calibration_batches=3"
SENSITIVITY = (FEW, "search.method=sensitivity")
FISHER = (FEW, "search.method=fisher")


@pytest.fixture(scope="module")
def sensitivity(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity")
    scripts.search(folder, *SENSITIVITY)
    return folder


def losses(folder, file="table.json"):
    return json.loads((folder / file).read_text())["layers"]


def test_the_table_and_the_scheme_are_written(sensitivity):
    assert set(losses(sensitivity)) == set(load(sensitivity / "scheme.json"))
    for row in losses(sensitivity).values():
        assert list(row) == ["1", "2", "4"]
        assert row["4"] == 0
    totals = scripts.results(sensitivity)["search"]["totals"]["cost"]
    assert totals["scheme"] <= totals["budget"]


def test_a_stopped_measurement_goes_on(sensitivity, tmp_path):
    shutil.copytree(sensitivity / "dense", tmp_path / "dense")
    shutil.copy(sensitivity / "config.json", tmp_path)
    asked = itertools.count(1)
    with pytest.raises(Stopped, match="stopped at sensitivity 4/6"):
        scripts.search(tmp_path, *SENSITIVITY, should_stop=lambda: next(asked) == 4)
    measured = json.loads((tmp_path / "measured.json").read_text())["losses"]
    assert sum(len(row) for row in measured.values()) == 4 + 2  # and dense in each layer begun
    assert not (tmp_path / "table.json").exists()
    # What is known counts: a loss that is changed on disk is seen in the end.
    measured["stem/kernel"]["1"] += 1.0
    document = json.loads((tmp_path / "measured.json").read_text())
    (tmp_path / "measured.json").write_text(json.dumps({**document, "losses": measured}))
    scripts.search(tmp_path, *SENSITIVITY)
    wanted = losses(sensitivity)
    wanted["stem/kernel"]["1"] += 1.0
    assert losses(tmp_path) == {
        name: {n: pytest.approx(loss) for n, loss in row.items()} for name, row in wanted.items()
    }


def test_what_was_measured_of_other_weights_counts_as_nothing(sensitivity, tmp_path):
    shutil.copytree(sensitivity / "dense", tmp_path / "dense")
    shutil.copy(sensitivity / "config.json", tmp_path)
    document = json.loads((sensitivity / "measured.json").read_text())
    document["losses"]["stem/kernel"]["1"] += 1.0
    (tmp_path / "measured.json").write_text(json.dumps({**document, "weights": "others"}))
    scripts.search(tmp_path, *SENSITIVITY)
    assert losses(tmp_path) == losses(sensitivity)


def test_a_table_from_elsewhere_gives_its_scheme(tmp_path, sensitivity, capsys):
    scripts.search(tmp_path / "fisher", *FISHER, f"init={sensitivity / 'dense'}")
    said = capsys.readouterr().out
    assert said.startswith("fisher: ")
    assert "is taken; the loss of each, true and expected:" in said
    table = f"search.table={tmp_path / 'fisher' / 'table.json'}"
    options = (FEW, "search.method=table", table, f"init={sensitivity / 'dense'}")
    scripts.search(tmp_path / "table", *options)
    schemes = [load(tmp_path / name / "scheme.json") for name in ("fisher", "table")]
    assert schemes[0] == schemes[1]


@pytest.mark.parametrize("method", ["kdiag", "kronecker"])
def test_statistics_of_products_make_a_table(tmp_path, sensitivity, capsys, method):
    options = (FEW, f"search.method={method}", f"init={sensitivity / 'dense'}")
    scripts.search(tmp_path / "once", *options)
    assert capsys.readouterr().out.startswith(f"{method}: ")
    table = losses(tmp_path / "once")
    assert table.keys() == losses(sensitivity).keys()
    assert all(sorted(row.values(), reverse=True) == [*row.values()] for row in table.values())
    if method == "kronecker":
        scripts.search(tmp_path / "each", *options, "search.low_memory=True")
        for name, row in losses(tmp_path / "each").items():
            assert row == pytest.approx(table[name], rel=1e-3)


def test_batch_statistics_may_be_those_of_the_dense_network(tmp_path, sensitivity):
    options = (*SENSITIVITY, "search.calibration_statistics=running")
    scripts.search(tmp_path, *options, f"init={sensitivity / 'dense'}")
    assert losses(tmp_path) != losses(sensitivity)


def test_a_grid_is_measured_and_the_rest_lies_between(tmp_path, sensitivity):
    options = ("search.m=8", "search.candidates=(1,2,4,6,8)", "search.rules=(('stem','dense'),)")
    grid = ("search.grid=(2,4)", f"init={sensitivity / 'dense'}")
    scripts.search(tmp_path, *SENSITIVITY, *options, *grid)
    measured = json.loads((tmp_path / "measured.json").read_text())["losses"]
    assert all(sorted(row) == ["1", "2", "4", "8"] for row in measured.values())
    assert all(list(row) == ["1", "2", "4", "6", "8"] for row in losses(tmp_path).values())


def test_budgets_in_words_reach_the_report(tmp_path, capsys):
    scripts.search(tmp_path / "half", "search.method=uniform", "search.nm=2:4")
    scripts.search(tmp_path / "three", "search.method=uniform", "search.nm=3:4")
    counted = ("search.objective=macs", "search.budget=12k MACs", "search.method=erk")
    scripts.search(tmp_path / "count", *counted)
    capsys.readouterr()
    shares = {}
    for name in ("half", "three", "count"):
        totals = scripts.results(tmp_path / name)["search"]["totals"]["cost"]
        shares[name] = (totals["scheme"], totals["budget"])
    assert shares["half"] == (744, 744)
    assert shares["three"] == (1116, 1116)  # 3 is no candidate
    assert shares["count"][0] <= shares["count"][1] == 12_000
    assert {str(nm) for nm in load(tmp_path / "three" / "scheme.json").values()} == {"3:4"}


def test_masks_by_another_score_make_another_table(tmp_path, sensitivity):
    options = (FEW, f"init={sensitivity / 'dense'}", "search.score=wanda")
    scripts.search(tmp_path, "search.method=sensitivity", *options)
    assert losses(tmp_path).keys() == losses(sensitivity).keys()
    assert losses(tmp_path) != losses(sensitivity)

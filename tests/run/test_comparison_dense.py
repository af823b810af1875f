"""Which cell of a comparison trains the dense network, also where some cannot be run."""

import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.run import comparison, comparison_dense
from domino_jax.run.comparison_report import Cell
from domino_jax.train.loop import Stopped

QUICK = ("train.epochs=1", "train.warmup_epochs=0", "dense.epochs=1")
CELLS = [Cell(seed, budget, "uniform", "sr_ste") for seed in range(2) for budget in ("1:4", "2:4")]


def compare(folder, cells, *settings):
    settings = scripts.settings(*QUICK, *settings)
    comparison.compare(settings, folder, cells, lambda: False, metric="loss")


def dense_folders(folder):
    return [path.parent.name for path in sorted(folder.glob("seed0/*/dense"))]


def test_the_cell_that_began_the_dense_network_comes_first(tmp_path):
    places = {cell: tmp_path / str(number) for number, cell in enumerate(CELLS)}
    assert comparison_dense.in_order(CELLS, places.__getitem__) == CELLS
    step = places[CELLS[3]] / "dense" / "10"
    step.mkdir(parents=True)
    (step / "leaves.json").touch()
    order = comparison_dense.in_order(CELLS, places.__getitem__)
    assert order == [*CELLS[:2], CELLS[3], CELLS[2]]


def test_a_cell_that_cannot_be_run_leaves_the_dense_network_to_the_next(tmp_path, capsys):
    cells = comparison.cells_of(1, ["0.01", "2:4", "1:4"], ["uniform"], ["sr_ste"])
    with pytest.raises(InputError, match=r"1 of 3 cells could not be run; .* out of reach"):
        compare(tmp_path, cells)
    assert dense_folders(tmp_path) == ["2of4_uniform_sr_ste"]
    printed = capsys.readouterr().out
    # An earlier cell that can be run now starts from that network, and the others stay as they are.
    compare(tmp_path, [*comparison.cells_of(1, ["3:4"], ["uniform"], ["sr_ste"]), *cells[1:]])
    assert dense_folders(tmp_path) == ["2of4_uniform_sr_ste"]
    rows = [line for line in capsys.readouterr().out.splitlines() if " uniform " in line]
    assert [row.split()[0] for row in rows] == ["3:4", "2:4", "1:4"]  # as they were asked for
    assert set(printed.splitlines()) & set(rows) == set(rows[1:])


def test_a_dense_training_that_fails_is_not_tried_in_every_cell(tmp_path, capsys):
    cells = comparison.cells_of(1, ["2:4", "1:4", "3:4"], ["uniform"], ["sr_ste"])
    with pytest.raises(InputError, match=r"3 of 3 cells could not be run"):
        compare(tmp_path, cells, "dense.lr=1e30", "dense.weight_decay=0")
    said = capsys.readouterr().err
    assert said.count("the dense network cannot be trained") == 2, said
    assert not list(tmp_path.glob("seed0/1of4_*/dense"))


def test_who_trains_after_a_cell_that_failed(tmp_path):
    refused, diverged = InputError("out of reach"), FloatingPointError("the loss is nan")
    own, given = scripts.settings(), scripts.settings("init=elsewhere")
    assert comparison_dense.after_fault(own, tmp_path, refused) is None
    assert isinstance(comparison_dense.after_fault(own, tmp_path, diverged), InputError)
    assert comparison_dense.after_fault(given, tmp_path, diverged) is None  # its own training only


def test_no_cell_starts_from_half_a_dense_network(tmp_path, capsys, monkeypatch):
    """Its training ends in an error after a save: all others would start from that step."""
    cells = comparison.cells_of(1, ["2:4", "1:4"], ["uniform"], ["sr_ste"])
    run = comparison._run

    def stops_in_the_middle(config, cell, place, should_stop):
        asked = iter(range(11))
        try:
            run(config, cell, place, lambda: next(asked, None) is None)
        except Stopped:
            raise FloatingPointError("the loss is nan") from None

    monkeypatch.setattr(comparison, "_run", stops_in_the_middle)
    with pytest.raises(InputError, match=r"2 of 2 cells could not be run"):
        compare(tmp_path, cells)
    assert "the dense network is not trained yet, step " in capsys.readouterr().err
    monkeypatch.setattr(comparison, "_run", run)
    compare(tmp_path, cells)  # goes on where it was, in the same cell
    assert dense_folders(tmp_path) == ["2of4_uniform_sr_ste"]

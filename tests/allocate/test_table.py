"""Allocators by name: ours, and those of someone else."""

import dataclasses
import sys

import made
import pytest
import scripts

from domino_jax.allocate import table
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.search import Search
from domino_jax.core import costs
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM, load
from domino_jax.run import rehearsal, settings
from domino_jax.train.loop import Stopped

DENSE = Axes((), (), (0,), (1,))  # IO
A = made.layer("a", (8, 8), DENSE, 64, (1, 2, 4))
B = made.layer("b", (4, 4), DENSE, 16, (1, 2, 4))
LAYERS = (A, B)


def problem(share=0.5, **options):
    return Problem(LAYERS, costs.budget_of(LAYERS, share), options)


@pytest.mark.parametrize("name", ["domino", "uniform", "erk", "dense"])
def test_what_needs_no_weights_gives_a_scheme_or_a_search(name):
    answer = table.allocate(name, problem())
    assert isinstance(answer, Search) or list(answer) == ["a", "b"]
    config = settings.defaults()
    config.search.method = name
    settings.check(config)


@pytest.mark.parametrize("name", ["sensitivity", "fisher", "kdiag", "kronecker"])
def test_what_looks_at_the_loss_asks_for_it(name):
    options = {"grid": None, "calibration_batches": 2, "calibration_statistics": "batch"}
    options["low_memory"] = False
    with pytest.raises(InputError, match="needs weights, a loss or batches"):
        table.allocate(name, problem(**options))


def test_ours():
    assert table.allocate("uniform", problem()) == {"a": NM(2, 4), "b": NM(2, 4)}
    assert table.allocate("erk", problem(0.7)) == {"a": NM(2, 4), "b": NM(4, 4)}
    assert table.allocate("dense", problem(0.01)) == {"a": NM(4, 4), "b": NM(4, 4)}
    assert table.allocate("domino", problem(0.25)).fewest_votes == 3
    for name in ("uniform", "erk", "domino"):
        with pytest.raises(InputError, match=r"budget 0\.01 is out of reach"):
            table.allocate(name, problem(0.01))
    with pytest.raises(InputError, match="vote_ratio"):
        table.allocate("domino", problem(vote_ratio=2.0))


def test_further_budgets_hold_or_are_refused():
    second = costs.budget_of(LAYERS, "20", costs.count_macs)  # of 80; all at 1:4 cost 20
    both = problem(0.9)._replace(beside=(second,))
    for name in ("uniform", "erk"):
        assert table.allocate(name, both) == {"a": NM(1, 4), "b": NM(1, 4)}
    for name in ("dense", "own_parts:halves"):
        with pytest.raises(InputError, match=rf"^search.budgets: .*{name!r}, .* and 20 are all"):
            table.allocate(name, both)


def test_budgets_that_cannot_be_met_together_are_named_with_their_floors():
    layers = (A, dataclasses.replace(B, macs=1000))
    # b is dear here where it is sparse, and counts most of the MACs.
    slow = costs.table_cost({"a": {"1": 1, "2": 2, "4": 4}, "b": {"1": 9, "2": 9, "4": 1}}, layers)
    budgets = costs.budget_of(layers, 0.5, costs.count_macs), costs.budget_of(layers, 0.9, slow)
    both = Problem(layers, budgets[0], beside=budgets[1:])
    said = r"together; .* the macs budget 0\.5 .* at 0\.9549, the cost table's budget 0\.9 .* at 2"
    for name in ("uniform", "domino", "sensitivity"):
        with pytest.raises(InputError, match=said):
            table.allocate(name, both)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("greedy", "unknown allocator 'greedy'; nearest: .*'package.module:"),
        ("own_parts:absent", "unknown factory of own_parts 'absent'"),
        ("nowhere:absent", "cannot import nowhere"),
        ("own_parts:nothing", "'own_parts:nothing': expected a scheme .* got a NoneType"),
        ("own_parts:of_one_layer", "'own_parts:of_one_layer': .* it lacks 'b'"),
    ],
)
def test_what_is_no_allocator_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        table.allocate(name, problem())


def failing(problem):
    return {}["lost"]


def leaving(problem):
    sys.exit(0)


def stopped(problem):
    raise Stopped("stopped at step 3")


def search_that_fails(problem):
    return Search(lambda params: params["lost"], lambda state, params: sys.exit(0))


@pytest.mark.parametrize(
    ("function", "said"), [(failing, "KeyError: 'lost'"), (leaving, "SystemExit: 0")]
)
def test_an_allocator_of_ones_own_that_fails_is_named_with_file_and_line(function, said):
    name = f"{__name__}:{function.__name__}"
    with pytest.raises(InputError, match=rf"^allocator '{name}': {said} \(.*\.py, line \d+\);"):
        table.allocate(name, problem())


def test_a_search_of_ones_own_that_fails_is_named_too():
    name = f"{__name__}:search_that_fails"
    search = table.allocate(name, problem())
    with pytest.raises(InputError, match=rf"^allocator '{name}': KeyError: 'lost' \(.*\.py, line"):
        search.init({})
    with pytest.raises(InputError, match=rf"^allocator '{name}': SystemExit: 0 \(.*\.py, line"):
        search.update({}, {})


def test_a_run_that_is_stopped_in_an_allocator_of_ones_own_is_no_fault_of_it():
    with pytest.raises(Stopped):
        table.allocate(f"{__name__}:stopped", problem())


def test_an_error_of_ours_is_a_fault_of_ours(monkeypatch):
    monkeypatch.setattr("domino_jax.allocate.dense.allocate", failing)
    with pytest.raises(KeyError):
        table.allocate("dense", problem())


def test_an_allocator_of_ones_own_runs(tmp_path, capsys):
    """What search.py does with it, from dense training to the picture."""
    scripts.search(tmp_path, "search.method=own_parts:by_loss", "dense.epochs=1")
    scheme = load(tmp_path / "scheme.json")
    assert sorted(nm.n for nm in scheme.values()) == [1, 1, 4]
    assert (tmp_path / "dense" / "15").is_dir()
    assert not (tmp_path / "search").exists()
    assert (tmp_path / "report.png").is_file()
    assert str(next(nm for nm in scheme.values() if nm.n == 4)) in capsys.readouterr().out
    scripts.search(tmp_path, "search.method=own_parts:by_loss", "dense.epochs=1")
    assert load(tmp_path / "scheme.json") == scheme


def test_a_search_of_ones_own_runs(tmp_path):
    scripts.search(tmp_path, "search.method=own_parts:patient", "dense.epochs=1")
    assert (tmp_path / "search" / "votes.jsonl").is_file()
    assert scripts.results(tmp_path)["search"]["totals"]["cost"]["share"] <= 0.5


@pytest.mark.parametrize("name", ["uniform", "erk", "dense", "own_parts:halves"])
def test_no_dense_network_is_trained_where_nobody_asks_for_it(name, tmp_path):
    scripts.search(tmp_path, f"search.method={name}")
    assert load(tmp_path / "scheme.json")
    assert not (tmp_path / "dense").exists()


def test_a_rehearsal_trains_no_dense_network(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, searches in (("by_loss", False), ("patient", True), ("halves", False)):
        rehearsal.rehearse(scripts.settings(f"search.method=own_parts:{name}"))
        printed = capsys.readouterr().out
        assert ("search" in printed) == searches, name
        assert ("keeps 50.00% of the weights" in printed) == (name == "halves")
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_ends_above_its_budget(tmp_path):
    with pytest.raises(InputError, match="expected a search that ends within its budget, got none"):
        scripts.search(tmp_path, "search.method=own_parts:content", "dense.epochs=0.2")
    assert not (tmp_path / "scheme.json").exists()

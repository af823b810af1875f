"""A comparison: its cells, its budgets, what it writes, and that what is done is not repeated."""

import csv
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import made
import pytest
import scripts

from domino_jax import export
from domino_jax.allocate import sensitivity
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import as_fraction, count_weights, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import load as load_scheme
from domino_jax.run import comparison, comparison_pictures, comparison_report, monitor
from domino_jax.run.comparison_report import Cell, Outcome

ROOT = Path(__file__).parents[2]
IO = Axes((), (), (0,), (1,))
LAYERS = (
    made.layer("a", (16, 3), IO, 48, (1, 2, 4)),
    made.layer("stem", (3, 7), IO, 21, (), "input size 3 is no multiple of 4"),
)
METHODS = ["uniform", "unstructured_erk"]
FLAGS = [
    "--config=tests/tiny.py",
    "--methods=uniform,unstructured_erk",
    "--budgets=2:4",
    "--seeds=1",
]


def run(folder, *flags):
    """Runs the command in the project's folder; returns its exit code and both outputs."""
    command = [sys.executable, "-m", "domino_jax.compare", *FLAGS, f"--workdir={folder}", *flags]
    paths = scripts.python_path(ROOT, ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_cells_of_a_seed_are_together():
    cells = comparison.cells_of(2, ["0.5", "2:4"], ["uniform"], ["sr_ste", "fixed"])
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert cells[1] == Cell(0, "0.5", "uniform", "fixed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, ["0.5"], ["erk"], ["sr_ste"]), "--seeds: expected 1 or more, got 0"),
        ((1, [], ["erk"], ["sr_ste"]), "--budgets: expected at least one"),
        ((1, ["0.5"], [], ["sr_ste"]), "--methods: expected at least one"),
        ((1, ["0.5"], ["erk"], []), "--trainers: expected at least one"),
        ((1, ["1.5"], ["erk"], ["sr_ste"]), "expected a share above 0 .* got '1.5'"),
        ((1, ["half"], ["erk"], ["sr_ste"]), "expected a share above 0 .* got 'half'"),
        ((1, ["5:4"], ["erk"], ["sr_ste"]), "expected a share above 0 .* got '5:4'"),
        ((1, ["5M"], ["erk"], ["sr_ste"]), "expected a share above 0 .* got '5M'"),
        ((1, ["3/2"], ["erk"], ["sr_ste"]), "expected a share above 0 .* got '3/2'"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    with pytest.raises(ValueError, match=message):
        comparison.cells_of(*arguments)


def test_a_budget_is_a_share_or_what_an_n_of_m_costs():
    assert comparison.share_of("0.25", LAYERS, count_weights) == 0.25
    for text in ("1/3", "12.5%"):  # as `search.budget` takes them
        assert comparison.share_of(text, LAYERS, count_weights) == text
    share = comparison.share_of("1:4", LAYERS, count_weights)
    dense = total_cost(LAYERS, count_weights)
    assert as_fraction(share) * dense >= 12 + 21  # never below: 1:4 itself must fit
    assert share == pytest.approx(float(Fraction(33, 69)), abs=1e-15)
    assert comparison.share_of("1:2", LAYERS, count_weights) > share
    with pytest.raises(ValueError, match=r"M divides 4 \(of a\), got 2:16"):
        comparison.share_of("2:16", LAYERS, count_weights)


RESULTS = {
    "search": {
        "totals": {name: {"share": 0.5} for name in ("cost", "weights", "macs")},
        "layers": [{"name": "a", "nm": "2:4", "counted": True}],
    },
    "train": {stage: {"accuracy": 0.5} for stage in ("dense", "masked", "tuned")},
}


@pytest.mark.parametrize(
    "change",
    [
        {"search": {}},
        {"search": []},
        {"search": RESULTS["search"] | {"layers": [{"name": "a", "nm": "5:4", "counted": True}]}},
        {"search": RESULTS["search"] | {"layers": [3]}},
        {"train": 3},
        {"train": RESULTS["train"] | {"dense": 0.5}},
        {"train": RESULTS["train"] | {"tuned": {"accuracy": "good"}}},
    ],
)
def test_results_of_another_form(tmp_path, change):
    cell = Cell(0, "0.5", "erk", "sr_ste")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    assert comparison._outcome(cell, tmp_path).metrics["tuned"] == {"accuracy": 0.5}
    path.write_text(json.dumps(RESULTS | change))
    with pytest.raises(InputError, match=r"results\.json: expected the results of a search and"):
        comparison._outcome(cell, tmp_path)


@pytest.mark.parametrize("name", ["compare.csv", "front.png", "map.png"])
def test_a_folder_where_a_file_will_be(tmp_path, name):
    (tmp_path / name).mkdir()
    cells = comparison.cells_of(1, ["2:4"], METHODS, ["sr_ste"])
    with pytest.raises(InputError, match=f"{name}: expected a file, got a folder"):
        comparison.compare(scripts.settings(), tmp_path, cells, lambda: False, metric="")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_comparison_is_never_forgotten(tmp_path):
    code, _, said = run(tmp_path / "run", "--anew")
    assert (code, said.count("\n")) == (1, 1)
    assert "--anew: expected a --workdir of its own for another comparison" in said


def test_a_comparison_and_what_it_repeats(tmp_path, capsys):
    code, printed, said = run(tmp_path)
    assert code == 0, said
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("2:4")]
    assert [row[1].strip() for row in rows] == METHODS
    lines = list(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == METHODS
    assert all(0 < float(line["kept_cost"]) <= 0.5 for line in lines)
    assert all(float(line["tuned_accuracy"]) > 0.5 for line in lines)
    assert (tmp_path / "front.png").stat().st_size > 0
    assert (tmp_path / "map.png").stat().st_size > 0
    # One dense network for both, and nothing anew in a second call.
    assert len(list(tmp_path.glob("seed0/*/dense"))) == 1
    _require_unstructured(tmp_path / "seed0" / "2of4_unstructured_erk_sr_ste", capsys)
    written = _forget_a_setting(tmp_path)
    cells = comparison.cells_of(1, ["2:4"], METHODS, ["sr_ste"])
    again = (tmp_path, cells, lambda: False)
    comparison.compare(scripts.settings("data.dir=/moved"), *again, metric="accuracy")
    assert capsys.readouterr().out == printed
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(ValueError, match=r"2 of 2 cells .*: train.lr 0.05 there, 0.5 here"):
        comparison.compare(scripts.settings("train.lr=0.5"), *again, metric="accuracy")


def test_a_loss_table_is_measured_once_for_all_trainers_of_a_seed(tmp_path, monkeypatch):
    known, measure = [], sensitivity.measure

    def counted(*arguments, **options):
        known.append(sum(map(len, options["known"].values())))
        return measure(*arguments, **options)

    monkeypatch.setattr(sensitivity, "measure", counted)
    quick = ("train.epochs=1", "train.warmup_epochs=0", "search.calibration_batches=1")

    def compare(cells, *settings):
        settings = scripts.settings(*quick, "dense.epochs=1", *settings)
        comparison.compare(settings, tmp_path, cells, lambda: False, metric="loss")

    def cells(*budgets):
        return comparison.cells_of(1, budgets, ["uniform", "sensitivity"], ["sr_ste", "fixed"])

    compare(cells("2:4"))
    first, second = known
    assert (first, second) == (0, 3 * 3)  # 3 layers; dense, 1:4 and 2:4
    tables = sorted(tmp_path.glob("seed0/*/table.json"))
    assert len({path.read_bytes() for path in tables}) == 1 < len(tables)
    # Whatever the budget, it is the same; on other data it is measured anew.
    compare(cells("1:4")[2:], f"init={tmp_path}/seed0/2of4_uniform_sr_ste/dense")
    assert known[2:] == [9, 9]
    for scheme in tmp_path.glob("seed0/*_sensitivity_*/scheme.json"):
        document = json.loads(scheme.read_text())
        document["fingerprints"]["data.fingerprint"] = "of other data"
        scheme.write_text(json.dumps(document))
    compare(cells("3:4")[2:3], f"init={tmp_path}/seed0/2of4_uniform_sr_ste/dense")
    assert known[4:] == [0]


def _require_unstructured(folder, capsys):
    """As many weights as the scheme says, in groups of more and of fewer; not for export."""
    n = load_scheme(folder / "scheme.json")["body/kernel"].n
    body = scripts.arrays(folder / "train" / "sparse")["params/body/kernel"]
    in_groups = (body.reshape(9, 2, 4, 16) != 0).sum(2)
    assert in_groups.mean() == n
    assert in_groups.max() > n
    assert export.main([f"--workdir={folder}", f"--out={folder / 'out'}"]) == 1
    assert "got train.pattern='unstructured': a baseline only" in capsys.readouterr().err


def _forget_a_setting(folder):
    """Makes the schemes of a comparison those of a time before one setting was there."""
    for path in folder.glob("seed0/*/scheme.json"):
        document = json.loads(path.read_text())
        assert document["config"]["search"].pop("calibration_batches") == 8
        path.write_text(json.dumps(document))
    return {path: path.stat().st_mtime_ns for path in folder.glob("seed0/*/*.json")}


@pytest.mark.slow
def test_a_cell_that_cannot_be_run_is_named_and_the_others_are(tmp_path):
    code, printed, said = run(tmp_path, "--budgets=1/2,0.01", "--methods=uniform")
    assert code == 1
    assert "1 of 2 cells could not be run; " in said.splitlines()[-1]
    assert "budget 0.01 is out of reach" in said
    assert printed.count("│ uniform │") == 1


def _outcome(seed, method, tuned, budget="1:4"):
    losses = {"dense": {"loss": 1.0}, "masked": {"loss": 2.0}, "tuned": {"loss": tuned}}
    kept = {"cost": 0.25, "weights": 0.25, "macs": 0.25}
    return Outcome(Cell(seed, budget, method, "own:trainer"), kept, losses, {"a": (1, 4)})


def test_the_table_says_what_is_gained_over_the_first_method_seed_by_seed(capsys):
    outcomes = [
        *(_outcome(0, "uniform", 1.0), _outcome(0, "my.module:better", 0.9)),
        *(_outcome(1, "uniform", 2.0), _outcome(1, "my.module:better", 1.7)),
        *(_outcome(1, "unstructured_my:better", 1.5), _outcome(0, "erk", 1.0, "2:4")),
    ]
    monitor.console().print(comparison_report.table(outcomes, "loss"))
    lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.split("│")] for line in lines if ":4" in line]
    assert lines[0].endswith("over uniform")
    assert [row[1] for row in rows] == ["uniform", "better", "unstructured_better", "erk"]
    assert {row[2] for row in rows} == {"trainer"}
    assert [row[-2] for row in rows] == ["1.500 ± 0.707", "1.300 ± 0.566", "1.500", "1.000"]
    assert [row[-1] for row in rows] == ["-", "-0.200 ± 0.141", "-0.500", "-"]


def test_the_metric_is_told_after_the_first_cell():
    outcome = _outcome(0, "uniform", 1.0)
    assert comparison._metric("", outcome) == "loss"
    with pytest.raises(ValueError, match="unknown metric 'accuracy'; nearest: loss"):
        comparison._metric("accuracy", outcome)


def test_each_seed_starts_from_a_dense_network_of_its_own():
    config = scripts.settings("init=runs/seed{seed}/dense")
    cell = Cell(3, "2:4", "unstructured_erk", "fixed")
    own = comparison._config_of(config, cell, Path("elsewhere"))
    assert (own.init, own.seed) == ("runs/seed3/dense", 3)
    assert (own.search.method, own.train.method) == ("erk", "fixed")
    assert own.train.pattern == "unstructured"
    assert comparison._config_of(scripts.settings(), cell, Path("elsewhere")).init == "elsewhere"
    assert comparison._config_of(scripts.settings(), cell, None).init == ""


def test_pictures_of_a_hundred_layers_and_odd_names(tmp_path):
    layers = {f"block${i}/[w]/kernel": (1 + i % 4, 4) for i in range(100)}
    outcomes = [
        Outcome(
            Cell(seed, "1:4", method, "sr_ste"),
            {"cost": 0.25, "weights": 0.25, "macs": 0.25},
            {"dense": {"loss": 1.0}, "masked": {"loss": 2.0}, "tuned": {"loss": 1.0 + seed}},
            layers,
        )
        for seed in range(2)
        for method in ("uniform", "my.module:function")
    ]
    comparison_pictures.draw_front(tmp_path / "front.png", outcomes, "loss", "$x_{ on [data]")
    comparison_pictures.draw_map(tmp_path / "map.png", outcomes, "map")
    assert (tmp_path / "map.png").stat().st_size > 0


def test_cells_under_one_budget_are_drawn_in_rows():
    """Above one share of the cost they would lie on one another."""
    outcomes = [_outcome(seed, method, 1.0) for seed in range(2) for method in ("uniform", "erk")]
    points = comparison_pictures._points(outcomes, "loss")
    (axes,) = comparison_pictures._rows(points, outcomes, "loss", "loss").axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split()[0] for label in labels] == ["uniform", "erk"]
    assert labels[0].endswith("(25.0 %)")

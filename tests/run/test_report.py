"""The numbers, the table and the picture of a scheme of a small network."""

import json
import warnings

import made
import matplotlib.image
import pytest
from rich.console import Console

from domino_jax.allocate import uniform
from domino_jax.core import costs
from domino_jax.core.canonical import Axes
from domino_jax.core.scheme import NM
from domino_jax.run import monitor, report

DENSE = Axes((), (), (0,), (1,))
CONV = Axes((), (0, 1), (2,), (3,))
RULE = "dense by rule 'head[a-z]?'"
LAYERS = (
    made.layer("stem/kernel", (3, 3, 3, 8), CONV, 21600, (), "input size 3 is no multiple"),
    made.layer("conv/kernel", (3, 3, 8, 500), CONV, 3_600_000, (1, 2, 4)),
    made.layer("fc/kernel", (500, 10), DENSE, 5000, (1, 2, 4)),
    made.layer("head/kernel", (10, 10), DENSE, 100, (), RULE),
    made.layer("table", (9, 4), None, 0, (), "not used"),
)
SCHEME = {"conv/kernel": NM(1, 4), "fc/kernel": NM(4, 4)}
CURVE = [{"step": 0, "share": 1.0}, {"step": 50, "share": 0.6}, {"step": 100, "share": 0.36}]


def numbers(cost=costs.count_weights, scheme=SCHEME):
    return report.summary(LAYERS, scheme, costs.budget_of(LAYERS, 0.4, cost))


def printed(objective="params", cost=costs.count_weights):
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        report.print_table(numbers(cost), objective, 0.4, console)
    return console.export_text()


def cells(text, name):
    """Returns the cells of the line that begins with a name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return [cell.strip() for cell in line.split("│")][1:]


def test_rows():
    rows = {row["name"]: row for row in numbers()["layers"]}
    assert list(rows) == [spec.name for spec in LAYERS]
    assert rows["conv/kernel"] == {
        "name": "conv/kernel",
        "shape": [3, 3, 8, 500],
        "nm": "1:4",
        "density": 0.25,
        "weights": [9000, 36000],
        "macs": [900_000, 3_600_000],
        "reason": "",
        "counted": True,
    }
    assert (rows["fc/kernel"]["nm"], rows["fc/kernel"]["density"]) == ("4:4", 1.0)
    stem = rows["stem/kernel"]
    assert (stem["nm"], stem["density"], stem["weights"]) == ("", 1.0, [216, 216])
    assert stem["reason"].startswith("input size 3")
    assert (rows["table"]["macs"], rows["table"]["counted"]) == ([0, 0], False)


def test_biases_and_scales_are_one_line_of_the_table():
    reasons = ("goes into add", "goes into mul", "only scales fc/kernel", "only looked up")
    more = tuple(
        made.layer(f"x{i}", (1, 1, 9), None, 0, (), reason) for i, reason in enumerate(reasons)
    )
    for layers, shown in (((*LAYERS, *more), ["x3"]), ((*LAYERS, more[0]), ["x0"])):
        console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        with console.file:
            numbers = report.summary(layers, SCHEME, costs.budget_of(layers, 0.4))
            report.print_table(numbers, "params", 0.4, console)
        text = console.export_text()
        assert [name for name in ("x0", "x1", "x2", "x3") if f"{name} " in text] == shown
        assert ("3 biases and scales" in text) == (len(shown) < len(layers) - len(LAYERS))
        assert {row["name"] for row in numbers["layers"]} == {layer.name for layer in layers}


def test_totals():
    totals = numbers()["totals"]
    weights = {"dense": 41316, "scheme": 14316, "share": 14316 / 41316}
    macs = {"dense": 3_626_700, "scheme": 926_700, "share": 926_700 / 3_626_700}
    assert totals == {
        "weights": weights,
        "macs": macs,
        "cost": weights | {"budget": 16526.4, "budget_share": 0.4},
        "beside": {},
        "activations": 0,
    }
    assert numbers(costs.count_macs)["totals"]["cost"] == macs | {
        "budget": 1_450_680,
        "budget_share": 0.4,
    }


def test_totals_of_a_cost_table_are_json():
    cost = costs.table_cost({"conv/kernel": 0.5, "fc/kernel": {1: 1, 2: 2, 4: 2.5}}, LAYERS)
    found = numbers(cost)
    assert found["totals"]["cost"] == {
        "dense": 3,
        "scheme": 2.625,
        "share": 0.875,
        "budget": 1.2,
        "budget_share": 0.4,
    }
    assert json.loads(json.dumps(found)) == found


def test_a_dense_entry_of_a_dense_layer_shows_as_dense():
    assert numbers(scheme=SCHEME | {"stem/kernel": NM(16, 16)}) == numbers()


def test_table():
    text = printed()
    assert cells(text, "conv/kernel") == ["3x3x8x500", "1:4", "9,000", "900,000", ""]
    assert cells(text, "fc/kernel") == ["500x10", "4:4", "5,000", "5,000", ""]
    assert cells(text, "table") == ["9x4", "dense", "-", "-", "not used"]
    assert cells(text, "weights") == ["41,316", "14,316", "34.65%", "16,526.4 (40.00%)"]
    assert cells(text, "MACs") == ["3,626,700", "926,700", "25.55%", ""]
    assert "cost by" not in text


def test_rules_are_no_markup():
    assert cells(printed(), "head/kernel")[-1] == RULE


def test_the_budget_stands_in_the_line_of_its_objective():
    text = printed("macs", costs.count_macs)
    assert cells(text, "MACs")[-1] == "1,450,680 (40.00%)"
    assert cells(text, "weights")[-1] == ""


def test_a_cost_table_has_a_line_of_its_own():
    cost = costs.table_cost({"conv/kernel": 0.5, "fc/kernel": 1}, LAYERS)
    text = printed("measured/[h200] ms.json", cost)
    assert cells(text, "cost by [h200] ms.json") == ["1.5", "1.125", "75.00%", "0.6 (40.00%)"]
    assert cells(text, "MACs")[-1] == ""


def test_products_of_activations_stand_apart(capsys):
    found = report.summary(LAYERS, SCHEME, costs.budget_of(LAYERS, 0.4), activations=1_234_567)
    report.print_table(found, "params", 0.4, monitor.console())
    assert cells(capsys.readouterr().out, "MACs of activations") == [
        *("1,234,567", "1,234,567", "", "not counted"),
    ]
    report.print_table(numbers(), "params", 0.4, monitor.console())
    assert "activations" not in capsys.readouterr().out


def test_a_table_in_a_pipe_is_not_folded(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    report.print_table(numbers(), "params", 0.4, monitor.console())
    assert cells(capsys.readouterr().out, "conv/kernel")[0] == "3x3x8x500"


@pytest.mark.parametrize("curve", [CURVE, []])
def test_picture(tmp_path, curve):
    path = tmp_path / "report.png"
    report.plot(path, numbers(), curve, "small: N of M = 4", 0.4)
    picture = matplotlib.image.imread(path)
    assert picture.shape[:2] == (900, 1080)
    pixels = (picture * 255).round().astype(int)[..., :3]
    for color in ([0x1F, 0x77, 0xB4], [0xD3, 0xD3, 0xD3]):  # bars
        assert (pixels == color).all(-1).sum() > 500
    budget_line = (pixels == [0xD6, 0x27, 0x28]).all(-1).sum()
    assert budget_line > 500 if curve else budget_line == 0  # a uniform scheme has no curve


def test_the_picture_grows_with_the_network(tmp_path):
    layers = [made.layer(f"{i}", (8, 4), DENSE, 32, (1, 2, 4)) for i in range(40)]
    found = report.summary(layers, uniform.uniform(layers, 2), costs.budget_of(layers, 0.5))
    report.plot(tmp_path / "report.png", found, CURVE, "deep", 0.5)
    assert matplotlib.image.imread(tmp_path / "report.png").shape[:2] == (900, 1776)


STRANGE = [
    "my:llama:",
    "[red]",
    "[/]",
    "a$b^{c",
    "$\\frac{$",
    "\x1b[31mred",
    "x" * 300,
    "a\nb",
    "日本",
]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_is_no_markup_anywhere(name, terminal, tmp_path, capsys, monkeypatch):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "400")
    layers = (made.layer(name, (500, 10), DENSE, 5000, (1, 2, 4)),)
    found = report.summary(layers, {name: NM(1, 4)}, costs.budget_of(layers, 0.4))
    report.print_table(found, f"{name}.json", 0.4, monitor.console())
    out = capsys.readouterr().out
    shown = monitor.escaped(name)
    assert "\x1b[31m" not in out
    assert shown[:60] in out
    assert len([line for line in out.splitlines() if "500x10" in line]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a font without that script
        report.plot(tmp_path / "report.png", found, CURVE, name, 0.4)
    assert (tmp_path / "report.png").stat().st_size > 0

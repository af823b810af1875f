"""A loss table as a file: what is written is read, and what is wrong with one is said."""

import json
import re

import made
import pytest

from domino_jax.allocate import loss_table
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM

IO = Axes((), (), (0,), (1,))
LAYERS = (
    made.layer("a", (16, 8), IO, 128, (1, 2, 4)),
    made.layer("b", (16, 8), IO, 128, (2, 4)),
    made.layer("stem", (3, 8), IO, 24, reason="3 inputs"),
)
TABLE = {"a": {1: 0.5, 2: 0.25, 4: 0.0}, "b": {2: 0.125, 4: 0.0}}


def document(**layers):
    return json.dumps({"format": 1, "layers": layers})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(loss_table.written(TABLE, method="sensitivity"))
    assert json.loads(path.read_text())["method"] == "sensitivity"
    assert loss_table.read_table(path, LAYERS) == TABLE


def test_dense_may_be_left_out_and_other_n_be_there():
    table = {"a": {"1": 2, "2": 1, "3": 0.5}, "b": {"2": 1}}
    assert loss_table.require_table(table, LAYERS) == {
        "a": {1: 2, 2: 1, 4: 0},
        "b": {2: 1, 4: 0},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1"),
        ("[]", 'expected a loss table {"format": 1'),
        ('{"layers": {}}', "of format 1, got format None"),
        (document(a={"1": 1, "2": 0}), "the loss table is of another network: it lacks 'b'"),
        (document(a={"1": 1, "2": 0}, b={"2": 0}, c={}), "the network has no 'c'"),
        (document(a={"1": 1}, b={"2": 0}), "a: expected a loss for every candidate n = 1, 2, 4"),
        (document(a={"1": 1, "2": 0, "8": 0}, b={"2": 0}), "of M = 4 .*got n = 1, 2, 4, 8"),
        (document(a={"1": float("nan"), "2": 0}, b={"2": 0}), "a: .*0 or more .*got nan for 1"),
        (document(a={"1": 1, "2": -0.5}, b={"2": 0}), "a: .*0 or more .*got -0.5 for 2"),
        (document(a={"1": 1, "2": "0"}, b={"2": 0}), "a: .*0 or more .*got '0' for 2"),
        (document(a={"1": 1, "2": True}, b={"2": 0}), "a: .*0 or more .*got True for 2"),
        (document(a={"1": 1, "2": 1.5}, b={"2": 0}), "a: .*rise with n.*1 at n = 1 and 1.5 at n"),
        (document(a={"1": 1, "2": 1, "4": 2}, b={"2": 0}), "a: .*rise with n"),
        (document(a={"one": 1, "2": 1}, b={"2": 0}), "a: expected .n: loss.* got n = 'one'"),
        (document(a=3, b={"2": 0}), "a: expected {n: loss} in the loss table, got 3"),
    ],
)
def test_what_is_no_table_of_the_network_is_refused(text, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{message}") as error:
        loss_table.read_table(path, LAYERS)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: expected a JSON file, got none: No such"):
        loss_table.read_table(tmp_path / "nowhere.json", LAYERS)


def test_noise_is_removed():
    assert loss_table.without_noise({4: 0.0, 3: 0.01, 2: -0.01, 1: 1.0}) == {
        1: 1.0,
        2: 0.0,
        3: 0.0,
        4: 0.0,
    }
    assert loss_table.without_noise({1: 1.0, 2: 0.2, 3: 0.3, 4: 0.0})[3] == 0.2


def test_the_prediction_adds_up_the_layers():
    assert loss_table.predicted(TABLE, {"a": NM(2, 4), "b": NM(2, 4)}) == 0.375

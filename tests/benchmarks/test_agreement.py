"""How far two methods agree, on schemes drawn by hand."""

import sys

import pytest

from benchmarks import agreement
from domino_jax.core.scheme import NM, save

ONE = {"a": NM(2, 16), "b": NM(8, 16), "c": NM(4, 16)}
OTHER = {"a": NM(2, 16), "b": NM(4, 16), "c": NM(8, 16)}


def written(folder):
    for seed, method, scheme in ((0, "instant", ONE), (0, "domino", OTHER), (1, "instant", ONE)):
        place = folder / f"seed{seed}" / f"2of16_{method}_none"
        place.mkdir(parents=True)
        save(place / "scheme.json", scheme)


def test_the_same_n_and_the_distance_of_the_others():
    assert agreement.agreement(ONE, OTHER) == (1, 3, 0.25)
    assert agreement.agreement(ONE, ONE) == (3, 3, 0.0)


def test_cells_that_both_methods_have(tmp_path, monkeypatch, capsys):
    written(tmp_path)
    found = agreement.schemes(tmp_path, ["instant", "domino"])
    assert found == {("seed0", "2of16"): [ONE, OTHER]}
    monkeypatch.setattr(sys, "argv", ["agreement", str(tmp_path)])
    agreement.main()
    assert "| seed0 |  2of16 | 1 of 3 |                  0.250 |" in capsys.readouterr().out


def test_a_folder_without_them_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["agreement", str(tmp_path), "--methods", "erk", "uniform"])
    with pytest.raises(SystemExit):
        agreement.main()
    assert "no cell has both erk and uniform" in capsys.readouterr().err

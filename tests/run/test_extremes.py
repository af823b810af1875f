"""The largest and the smallest value of every setting works, or is refused before anything is made.

Found by trying numbers on the table of settings, so that a new setting is among them. Of every
phase one setting is at its end; what is refused names it, and the others are tried without it.
"""

import itertools
import math

import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.run import rehearsal
from domino_jax.run.settings_table import SETTINGS
from domino_jax.train import loop

NUMBERS = [0, 1, 2, 3, 64, 1024, 2**31 - 1, 2**32 - 1]
NUMBERS += [5e-324, 1e-45, 1e-9, 0.5, math.nextafter(1, 0), 1e6, 1e38]
OTHERS = {
    "search.penalty_doubles_at": [(1, 1), (2**31 - 1, 2**31 - 1)],
    "search.candidates": [(4,), (1, 2, 3, 4)],
    "search.grid": [(1,), (2**70,)],
}

# What is refused together with another setting is said in other words.
SAID = {
    "search.budget": "budget",
    "search.candidates": "the candidates allow",
    "search.grid": "grid: expected some of the candidates",
    "search.m": "can be grouped by m=64",
    "search.vote_every": "votes, one every 2147483647 steps",
}


def allows(setting, number):
    try:
        return setting.allows(number) and type(setting.default) is not bool
    except (TypeError, OverflowError):
        return False


def ends():
    """Returns phase -> pairs (key, value): the ends of each of its settings."""
    found = {}
    for key, setting in SETTINGS.items():
        allowed = [number for number in NUMBERS if allows(setting, number)]
        values = {min(allowed), max(allowed)} if allowed else OTHERS.get(key, ())
        group = key.partition(".")[0]
        found.setdefault(group if group in scripts.PHASES else "", []).extend(
            (key, value) for value in sorted(values)
        )
    return found


ENDS = ends()
ROWS = [[pair for pair in row if pair] for row in itertools.zip_longest(*ENDS.values())]


def tried(row, act):
    """Acts with the settings of a row; returns those that were refused, by their own names."""
    refused, left = [], dict(row)
    while True:
        try:
            act(*(f"{key}={value!r}" for key, value in left.items()))
            return refused
        except InputError as error:
            said = str(error)
            blamed = [key for key in left if key in said or SAID.get(key, said + " ") in said]
            assert blamed, said
            refused.append(blamed[0])
            del left[blamed[0]]


def test_every_number_has_ends():
    numbers = {key for key, of in SETTINGS.items() if type(of.default) in (int, float)}
    assert numbers <= {key for pairs in ENDS.values() for key, _ in pairs}
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_ends_of_every_setting(row, monkeypatch, capsys):
    monkeypatch.setattr(rehearsal, "LARGEST_STEP", 0)  # traced and lowered, not compiled
    tried(row, lambda *overrides: rehearsal.rehearse(scripts.settings(*overrides)))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_runs_at_the_ends_of_every_setting(row, tmp_path, capsys):
    """A run may diverge or stand still, and says so; it does not fail of numbers."""

    def run(*overrides):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        given = {"search.max_steps": 40, "search.calibration_batches": 2}
        few = [f"{key}={value}" for key, value in given.items() if key not in dict(row)]
        asked = itertools.count()
        soon = lambda: next(asked) > 200  # noqa: E731 (a million epochs need not end)
        try:
            scripts.search(folder, *few, *overrides, should_stop=soon)
            scripts.train(folder, *few, *overrides, should_stop=soon)
        except (loop.Stuck, loop.Stopped, FloatingPointError):
            return
        except InputError:
            made = folder.iterdir() if folder.exists() else ()
            assert not any(path.is_dir() for path in made)  # before all training
            raise

    tried(row, run)

"""What the command line takes besides settings: options of factories, and a call for help."""

import subprocess
import sys
from pathlib import Path

import pytest
import scripts
from absl import flags

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.width=64", 64),
        ("model.rate=1e-3", 1e-3),
        ("model.sizes=(8,16)", (8, 16)),
        ("model.dtype=bfloat16", "bfloat16"),
        ("model.head=None", None),
        ("data.augment=False", False),
        ("data.augment=true", True),
        ("data.augment", True),
    ],
)
def test_options_of_factories_are_literals_or_text(override, value):
    config = scripts.settings(override)
    group, key = override.partition("=")[0].split(".")
    assert config[group][key] == value
    assert type(config[group][key]) is type(value)
    assert config.is_locked


def test_settings_keep_their_type():
    config = scripts.settings("data.workers=2", "model.name=64")
    assert (config.data.workers, config.model.name) == (2, "64")
    with pytest.raises(flags.IllegalFlagValueError, match=r"search\.budget=low"):
        scripts.settings("search.budget=low")


@pytest.mark.parametrize("word", ["--help", "-?", "--helpfull"])
def test_help_is_no_error(word):
    command = [sys.executable, "search.py", word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--workdir" in done.stdout

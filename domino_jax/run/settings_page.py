"""The table of settings as people read it: `--help` in a terminal, and docs/settings.md."""

import textwrap
from collections.abc import Iterable, Mapping

from domino_jax.run.settings_table import GROUPS, SETTINGS

WIDTH = 88
COMMAND = "python -m domino_jax.settings > docs/settings.md"
_TITLES = {
    "": "Both scripts",
    "model": "The network",
    "data": "The data set",
    "mesh": "The devices",
    "dense": "Training of the dense network",
    "search": "Search",
    "train": "Training of the sparse network",
}


def help_text(summary: str, flags: Mapping[str, str]) -> str:
    """Writes the help of a script; imports no table of names, since those import JAX.

    Args:
        summary: the first lines.
        flags: form of a flag -> what it does.
    """
    lines = [summary.strip(), "", "Flags:"]
    for form, meaning in {**flags, "--help": "Shows this."}.items():
        lines += _entry(form, meaning)
    lines += ["", "Settings; the config file has them, --config.KEY=VALUE overrides them:"]
    for key, setting in SETTINGS.items():
        lines += _entry(f"{key}={setting.default!r}", setting.meaning)
    lines += ["", "What each setting may be: docs/settings.md"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Writes docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "For those who run `search.py` and `train.py`: every setting, its default (the paper's "
        "ResNet-50 on ImageNet), what it may be, and what it means.",
        "",
        "A config file in `configs/` changes the defaults, and `--config.key=value` on the command "
        "line changes both: `--config.search.budget=0.125`. `python search.py --help` shows this "
        "list in a terminal.",
    ]
    for group, title in _TITLES.items():
        keys = [f"{group}.{name}" for name in GROUPS[group]] if group else _without_group()
        lines += ["", f"## {title}", "", "| setting | default | expected | meaning |"]
        lines += ["|---|---|---|---|", *map(_row, keys)]
    lines += ["", f"Made by `{COMMAND}`; a test compares this page with the program."]
    return "\n".join(lines) + "\n"


def _without_group() -> Iterable[str]:
    return [key for key in SETTINGS if "." not in key]


def _row(key: str) -> str:
    setting = SETTINGS[key]
    cells = (f"`{key}`", f"`{setting.default!r}`", setting.expected(), setting.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _entry(head: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  {head}", *wrapped]

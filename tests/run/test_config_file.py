"""Config files that fail in unusual ways: one line with the file and the line."""

import pytest

from domino_jax.core.errors import InputError
from domino_jax.run import config_file

START = "import sys\nfrom domino_jax.settings import defaults\n"
BODY = "def get_config():\n  config = defaults().unlock()\n  "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.exit(0)\n", ", line 3: SystemExit: 0$"),
        (f"{BODY}sys.exit()\n", ", line 5: SystemExit$"),
        (f"{BODY}sys.exit('bye')\n", ", line 5: SystemExit: bye$"),
        (f"{BODY}raise BaseException('odd')\n", ", line 5: BaseException: odd$"),
        (f"{BODY}raise GeneratorExit\n", ", line 5: GeneratorExit$"),
        (
            f"{BODY}import ml_collections as m\n  return m.FrozenConfigDict(config)\n",
            r": expected a ConfigDict from get_config\(\), .*, got FrozenConfigDict$",
        ),
        (
            f"{BODY}import ml_collections as m\n  config.model.head = m.FrozenConfigDict()\n"
            "  return config",
            ": AttributeError: FrozenConfigDict is immutable",
        ),
        (
            f"{BODY}config.model.me = config\n  return config\n",
            ": model.me: expected a value, got a group that it is in$",
        ),
        (
            f"{BODY}config.model.us = {{}}\n  config.model.us.me = config.model.us\n"
            "  return config\n",
            ": model.us.me: expected a value, got a group that it is in$",
        ),
        (
            f"{BODY}config.model[3] = 4\n  return config\n",
            ": model: expected text as every key, got a mixture$",
        ),
        (
            f"{BODY}config.model.sizes = {{3: 4}}\n  return config\n",
            ": model.sizes: expected text as every key, got 3$",
        ),
    ],
)
def test_what_a_config_file_does_wrong(text, said, tmp_path):
    path = tmp_path / "c.py"
    path.write_text(START + text)
    with pytest.raises(InputError, match=f"^config file {path}{said}"):
        config_file.load(str(path))


def test_ctrl_c_in_a_config_file_is_no_wrong_input(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        config_file.load(str(path))

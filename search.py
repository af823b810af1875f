"""Finds a layer-wise N:M scheme: python search.py --config=configs/digits.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from domino_jax.run import signals


def work(config: Any, workdir: Path, should_stop: Callable[[], bool], anew: bool) -> None:
    """Searches with the settings of a config."""
    from domino_jax.core.errors import InputError  # noqa: PLC0415 (signals are caught first)
    from domino_jax.run import experiment, search  # noqa: PLC0415 (JAX is not needed for --help)

    if config.evaluate:
        raise InputError("evaluate: search.py has nothing to evaluate; train.py takes this setting")
    search.find_scheme(experiment.build(config, workdir, should_stop), anew=anew)


if __name__ == "__main__":
    stops = signals.catch_signals()  # before all that takes its time to import
    from domino_jax.run import command_line

    command_line.main(work, stops)

"""Trains a network under the scheme that search.py found: python train.py --config=FILE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from domino_jax.run import signals


def work(config: Any, workdir: Path, should_stop: Callable[[], bool], anew: bool) -> None:
    """Fine-tunes, or only evaluates, with the settings of a config."""
    from domino_jax.core.errors import InputError  # noqa: PLC0415 (signals are caught first)
    from domino_jax.run import experiment, finetune  # noqa: PLC0415 (JAX is not needed for --help)

    if config.evaluate and anew:
        raise InputError("--anew and --config.evaluate exclude each other")
    exp = experiment.build(config, workdir, should_stop)
    if config.evaluate:
        finetune.evaluate_only(exp)
    else:
        finetune.train_scheme(exp, anew=anew)


if __name__ == "__main__":
    stops = signals.catch_signals()  # before all that takes its time to import
    from domino_jax.run import command_line

    command_line.main(work, stops)

"""What both scripts share: flags, exit codes, and the one line that a wrong input gets."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

WRONG_INPUT = 1
STOPPED = 75  # EX_TEMPFAIL: start the same command again
COMPILED = "~/.cache/domino_jax/compiled"

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="A file in configs/; its settings are overridden by --config.key=value "
    "(all of them are described in domino_jax/settings.py).",
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where everything is written; default runs/<config name>."
)


def main(work: Callable[[Any, Path, Callable[[], bool]], None]) -> None:
    """Runs a script: parses --config and --workdir, calls work(config, workdir, should_stop).

    Exits with 0 (done), 1 (wrong input or unreachable goal, one line on stderr) or 75 (stopped
    by SIGTERM after saving).
    """

    def run(argv: list[str]) -> None:
        if argv[1:]:
            _fail(f"unexpected argument {argv[1]!r}; settings are --config.key=value")
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        sys.exit(_guarded(work, CONFIG.value, Path(WORKDIR.value or f"runs/{name}")))

    app.run(run, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    from domino_jax import flag_errors  # noqa: PLC0415 (JAX is not needed for --help)

    logging.set_verbosity(logging.ERROR)  # ml_collections warns of what is refused here
    try:
        rest = flags.FLAGS(argv)
        asks_help = any(flags.FLAGS[name].value for name in ("help", "helpfull", "helpshort"))
        if not asks_help:
            if flags.FLAGS["config"].present == 0:
                _fail(flag_errors.NO_CONFIG)
            flag_errors.require_config(CONFIG.value)
    except Exception as error:  # of many types, also whatever a config file does
        _fail(flag_errors.explain(argv, error))
    return rest


def _guarded(work: Callable[..., None], config: Any, workdir: Path) -> int:
    from domino_jax.loop import Stopped  # noqa: PLC0415 (JAX is not needed for --help)

    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    _keep_compiled()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    try:
        work(config, workdir, lambda: bool(stop))
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        return STOPPED
    except (ValueError, FloatingPointError) as error:
        _fail(str(error))
    return 0


def _keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where (or '')."""
    import jax  # noqa: PLC0415

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(COMPILED).expanduser()))


def _fail(message: str) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(WRONG_INPUT)

"""What both scripts share: flags, exit codes, and the one line that a wrong input gets."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

WRONG_INPUT = 1
STOPPED = 75  # EX_TEMPFAIL: start the same command again


def main(work: Callable[[Any, Path, Callable[[], bool]], None]) -> None:
    """Runs a script: parses --config and --workdir, calls work(config, workdir, should_stop).

    Exits with 0 (done), 1 (wrong input or unreachable goal, one line on stderr) or 75 (stopped
    by SIGTERM after saving).
    """
    config = config_flags.DEFINE_config_file("config", help_string="A file in configs/.")
    workdir = flags.DEFINE_string(
        "workdir", "", "Where everything is written; default runs/<config name>."
    )
    flags.mark_flag_as_required("config")

    def run(argv: list[str]) -> None:
        if argv[1:]:
            _fail(f"unexpected argument {argv[1]!r}; settings are --config.key=value")
        logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        sys.exit(_guarded(work, config.value, Path(workdir.value or f"runs/{name}")))

    app.run(run)


def _guarded(work: Callable[..., None], config: Any, workdir: Path) -> int:
    from domino_jax.loop import Stopped  # noqa: PLC0415 (JAX is not needed for --help)

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


def _fail(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(WRONG_INPUT)

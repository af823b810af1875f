"""What both scripts share: flags, exit codes, and the one line that a wrong input gets."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

WRONG_INPUT = 1
STOPPED = 75  # EX_TEMPFAIL: start the same command again
COMPILED = "~/.cache/domino_jax/compiled"
_OPTION = re.compile(r"--?(?:no)?config\.(model|data)\.([^\W\d]\w*)(?:=.*)?", re.DOTALL)
_HELP = re.compile(r"--?(?:help(?:short|full|xml)?|\?)")


class ConfigParser(ConfigFileFlagParser):
    """Loads a config whose groups `model` and `data` also have the options that flags name.

    Whether a network or a data set has such an option, its factory says.
    """

    def parse(self, path: str) -> Any:
        """Loads a config file, and adds to it what the command line names."""
        config = super().parse(path)
        for word in flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False):
            if (found := _OPTION.fullmatch(word)) and isinstance(config, ConfigDict):
                group, key = config.get(found[1]), found[2]
                if isinstance(group, ConfigDict) and key not in group:
                    with config.unlocked():
                        group[key] = placeholder(object)  # takes any Python literal, or text
        return config


CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="A file in configs/; its settings are overridden by --config.key=value "
    "(all of them are described in domino_jax/run/settings.py; further ones of `model` and `data` "
    "are options of the network and the data set).",
)
flags.FLAGS[CONFIG.name].parser = ConfigParser(CONFIG.name)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where everything is written; default runs/<config name>."
)
ANEW = flags.DEFINE_bool(
    "anew",
    False,
    "Forgets first what an earlier run left in the work directory: search.py everything, "
    "train.py only its own part.",
)

Work = Callable[[Any, Path, Callable[[], bool], bool], None]


def main(work: Work) -> None:
    """Runs a script: parses the flags, calls work(config, workdir, should_stop, anew).

    Exits with 0 (done), 1 (wrong input or unreachable goal, one line on stderr) or 75 (stopped
    by SIGTERM or Ctrl-C after saving; a second Ctrl-C ends at once). With the environment variable
    DOMINO_TRACEBACK=1 the full traceback comes before that line.
    """
    stop = _catch_signals()

    def run(argv: list[str]) -> None:
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        if (WORKDIR.value or "").startswith("-"):
            _fail(f"--workdir: a folder is wanted, got {WORKDIR.value!r}")
        workdir = Path(WORKDIR.value or f"runs/{name}")
        sys.exit(_guarded(lambda: _work(work, CONFIG.value, workdir, lambda: bool(stop))))

    app.run(run, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    logging.set_verbosity(logging.ERROR)  # ml_collections warns of what is refused here
    try:
        rest = flags.FLAGS(argv)
        _require_config(rest)
    except SystemExit as ended:  # absl ends with 1 after its help
        sys.exit(0 if any(map(_HELP.fullmatch, argv)) else ended.code)
    except Exception as error:  # of many types, also whatever a config file does
        from domino_jax.run.flag_errors import explain  # noqa: PLC0415 (JAX is not needed for --help)

        _fail(explain(argv, error))
    return rest


def _require_config(rest: list[str]) -> None:
    from domino_jax.run import flag_errors  # noqa: PLC0415

    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}; {flag_errors.USAGE}")
    if not flags.FLAGS["config"].present:
        _fail(flag_errors.NO_CONFIG)
    flag_errors.require_config(CONFIG.value)


def _catch_signals() -> list[int]:
    """Returns a list to which SIGTERM and SIGINT are added as they come."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        del frame
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Not print: it may be what was interrupted.
            os.write(2, b"\nstopping as soon as all is saved; Ctrl-C again ends at once\n")

    signal.signal(signal.SIGTERM, catch)
    signal.signal(signal.SIGINT, catch)
    return caught


def _work(work: Work, config: Any, folder: Path, should_stop: Callable[[], bool]) -> None:
    import jax  # noqa: PLC0415 (JAX is not needed for --help)

    from domino_jax.run import settings, workdir  # noqa: PLC0415

    settings.check(config)
    if config.dry_run:
        from domino_jax.run import rehearsal  # noqa: PLC0415

        rehearsal.rehearse(config)
        return
    _keep_compiled()
    # Asked in this order, the devices stay untouched until the directory is ours.
    shared = jax.distributed.is_initialized() and jax.process_index() > 0
    with nullcontext() if shared else workdir.taken(folder):
        work(config, folder, should_stop, ANEW.value)


def _guarded(work: Callable[[], None]) -> int:
    from domino_jax.core.factories import is_foreign, told  # noqa: PLC0415 (JAX, as below)
    from domino_jax.train.loop import Stopped  # noqa: PLC0415 (JAX is not needed for --help)

    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    try:
        work()
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        return STOPPED
    except (ValueError, FloatingPointError) as error:
        _fail(told(error) if is_foreign(error) else str(error))
    except OSError as error:  # a disk that is full, a file that went: the system's own words
        if error.strerror is None:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}")
    return 0


def _keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where (or '')."""
    import jax  # noqa: PLC0415

    from domino_jax.run import compiled  # noqa: PLC0415

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        folder = str(Path(COMPILED).expanduser())
        jax.config.update("jax_compilation_cache_dir", folder)
        # By default only what took a second is kept; the many small programs make half a start.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compiled.discard_broken(folder)


def _fail(message: str) -> NoReturn:
    if os.environ.get("DOMINO_TRACEBACK") and sys.exc_info()[0]:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(WRONG_INPUT)

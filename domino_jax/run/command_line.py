"""What both scripts share: flags, exit codes, and the one line that wrong input gets."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from domino_jax.core.errors import TRACEBACK, InputError, fault, printable
from domino_jax.run import cluster, memory, output, signals

WRONG_INPUT = 1
STOPPED = 75  # EX_TEMPFAIL: start the same command again
COMPILED = "~/.cache/domino_jax/compiled"
USAGE = "the config is --config=FILE, settings are --config.key=value"
_HELP = re.compile(r"--?(?:help(?:short|full|xml)?|\?)")


class _BooleanParser(flags.BooleanParser):
    def parse(self, argument: str | int | bool) -> bool:
        try:
            return bool(super().parse(argument))
        except ValueError:
            raise InputError(f"expected True or False, got {argument!r}") from None


CONFIG = flags.DEFINE_string("config", None, "A file in configs/.")
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where everything is written; '' is runs/ and the name of the config file."
)
ANEW = flags.DEFINE_bool(
    "anew",
    False,
    "Forgets first what an earlier run left in the work directory: search.py everything, "
    "train.py only its own part.",
)
flags.FLAGS[ANEW.name].parser = _BooleanParser()

Work = Callable[[Any, Path, Callable[[], bool], bool], None]


def main(
    work: Work, stops: list[int], *, parent: str = "runs", more: Sequence[flags.FlagHolder] = ()
) -> None:
    """Runs a script: parses the flags, calls work(config, workdir, should_stop, anew).

    Exits with 0 (done), 1 (wrong input, an unreachable goal or a fault: one line on stderr) or 75
    (stopped by SIGTERM or Ctrl-C after saving; a second Ctrl-C ends at once). With the environment
    variable DOMINO_TRACEBACK=1 the full traceback comes before that line.

    Args:
        work: what the script does.
        stops: to which `signals.catch_signals` adds.
        parent: folder of the work directories that are named by their config file.
        more: further flags of the script, for its help.
    """
    config: list[Any] = []

    def parse(argv: list[str]) -> list[str]:
        if any(_HELP.fullmatch(word) for word in argv[1:]):
            from domino_jax.run.settings_page import help_text  # noqa: PLC0415 (only for --help)

            try:
                with output.arriving():
                    text = help_text(sys.modules["__main__"].__doc__ or "", _flag_texts(more))
                    print(text, end="")
            except output.OutputLost as error:
                _fail(str(error))
            sys.exit(0)
        try:
            config.append(read_config(argv))
        except (InputError, flags.Error) as error:
            _fail(_told(error))
        return argv[:1]

    def run(argv: list[str]) -> None:
        del argv
        file = (CONFIG.value or "").partition(":")[0]
        folder = Path(WORKDIR.value or f"{parent}/{Path(file).stem}")
        sys.exit(_guarded(lambda: _work(work, config[0], folder, stops), folder))

    app.run(run, flags_parser=parse)


def read_config(argv: list[str]) -> Any:
    """Reads the flags and the config file of a command line; its settings are not checked.

    Raises:
        InputError: a word that is no flag, a config file that fails, an unknown setting.
        flags.Error: as absl says it.
    """
    from domino_jax.run import config_file, overrides  # noqa: PLC0415 (not for --help)

    logging.set_verbosity(logging.ERROR)
    words = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
    rest, settings = overrides.split(words)
    stray = flags.FLAGS([argv[0], *rest])[1:]
    if stray:
        raise InputError(f"unexpected argument {stray[0]!r}; {USAGE}")
    if not CONFIG.value:
        raise InputError("--config=FILE is missing; the files are in configs/")
    if (WORKDIR.value or "").startswith("-"):
        raise InputError(f"--workdir: expected a folder, got {WORKDIR.value!r}")
    config = config_file.load(CONFIG.value)
    overrides.apply(config, settings, CONFIG.value)
    return config


def _told(error: Exception) -> str:
    """Says what is wrong with a command line."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(error.flagname)
    if isinstance(error, flags.IllegalFlagValueError) and isinstance(error.__context__, InputError):
        return f"--{ANEW.name}: {error.__context__}"  # the one flag that we give a parser
    return str(error)


def _unknown_flag(name: str) -> str:
    from domino_jax.run.settings_table import SETTINGS  # noqa: PLC0415 (not for --help)

    ends = {key.rpartition(".")[2]: key for key in reversed(SETTINGS)}
    near = difflib.get_close_matches(f"--{name}", ("--config", "--workdir", "--anew"), n=1) or [
        f"--config.{ends[end]}" for end in difflib.get_close_matches(name, ends, n=2)
    ]
    all_flags = "there are --config, --workdir, --anew and --help"
    known = f"nearest: {', '.join(near)}" if near else all_flags
    return f"unknown flag --{name}; {known}; {USAGE}"


def _flag_texts(more: Sequence[flags.FlagHolder]) -> dict[str, str]:
    holders: dict[str, Any] = {"--config=FILE": CONFIG, "--workdir=FOLDER": WORKDIR, "--anew": ANEW}
    holders |= {
        "--coordinator=HOST:PORT": cluster.COORDINATOR,
        "--processes=COUNT": cluster.PROCESSES,
        "--process=INDEX": cluster.PROCESS,
    }
    holders |= {f"--{holder.name}={holder.default}": holder for holder in more}
    return {form: flags.FLAGS[holder.name].help or "" for form, holder in holders.items()}


def _work(work: Work, config: Any, folder: Path, stops: list[int]) -> None:
    from domino_jax.run import settings, workdir  # noqa: PLC0415
    from domino_jax.train import loop, mesh  # noqa: PLC0415

    settings.check(config)
    if config.dry_run:
        from domino_jax.run import rehearsal  # noqa: PLC0415

        if stops:
            raise loop.Stopped("stopped before the first step")
        signals.end_at_once()
        mesh.require_devices()
        rehearsal.rehearse(config)
        return
    memory.keep_freed()
    cluster.join()
    _keep_compiled()
    # Asked in this order, the devices stay untouched until the directory is ours.
    if cluster.is_first():
        with workdir.taken(folder):
            work(config, folder, cluster.agreed(lambda: bool(stops)), ANEW.value)
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            work(config, folder, cluster.agreed(lambda: bool(stops)), ANEW.value)


def _guarded(work: Callable[[], None], folder: Path) -> int:
    """Returns the exit code of a work, or exits after one line: nothing that it runs ends it."""
    from domino_jax.train.loop import Stopped  # noqa: PLC0415 (JAX is not needed for --help)

    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    try:
        with output.arriving():
            work()
    except Stopped as stopped:
        print(f"{printable(str(stopped))}; the same command goes on from there", file=sys.stderr)
        return STOPPED
    except output.OutputLost as error:
        _fail(f"{error}; {f'what was done is in {folder}' if folder.is_dir() else 'all was done'}")
    except (InputError, FloatingPointError) as error:
        _fail(str(error))
    except OSError as error:  # a disk that is full, a file that went: the system's own words
        _fail(f"{error.filename or 'a file'}: {error.strerror}" if error.strerror else fault(error))
    except KeyboardInterrupt:  # of code that takes Ctrl-C for itself
        raise
    except BaseException as error:  # of any type
        _fail(fault(error))
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
    if os.environ.get(TRACEBACK) and sys.exc_info()[0]:
        traceback.print_exc()
    print(printable(message), file=sys.stderr)
    sys.exit(WRONG_INPUT)

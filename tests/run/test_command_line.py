"""What the command line takes besides settings: options of factories, and a call for help."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scripts

from domino_jax.core.errors import InputError, printable
from domino_jax.run import command_line, overrides, signals
from domino_jax.run.monitor import console
from domino_jax.train.loop import Stopped

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
    assert type(scripts.settings("search.budget=0.5", "search.lr=1").search.lr) is float
    with pytest.raises(InputError, match=r"search\.budget: expected a share .*, got 'low'"):
        scripts.settings("search.budget=low")


@pytest.mark.parametrize(
    ("words", "rest", "given"),
    [
        (["--config=a", "--config.seed=1"], ["--config=a"], [("seed", "1")]),
        (["-config.seed", "1", "--anew"], ["--anew"], [("seed", "1")]),
        (["--config.evaluate", "--anew"], ["--anew"], [("evaluate", "True")]),
        (["--noconfig.evaluate"], [], [("evaluate", "False")]),
        (["--config.model.wide", "--workdir=x"], ["--workdir=x"], [("model.wide", "True")]),
        (["--config.init=a=b"], [], [("init", "a=b")]),
        (["--config.init="], [], [("init", "")]),
        (["--", "--config.seed=1"], ["--", "--config.seed=1"], []),
        (["--config.seed=1", "--config.seed=2"], [], [("seed", "1"), ("seed", "2")]),
        (["--config.search.rules", "()"], [], [("search.rules", "()")]),
    ],
)
def test_settings_are_taken_out_of_a_command_line(words, rest, given):
    assert overrides.split(words) == (rest, given)


@pytest.mark.parametrize("text", ["True", "False", ""])
def test_a_denied_setting_takes_no_value(text):
    said = rf"^--noconfig\.dry_run: expected no value, got '{text}'; --config\.dry_run={text} sets"
    with pytest.raises(InputError, match=said):
        overrides.split([f"--noconfig.dry_run={text}"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("search.candidates=(1,4)", (1, 4)),
        ("search.candidates=[1,4]", (1, 4)),
        ("search.candidates=1,4", (1, 4)),
        ("search.candidates=4", (4,)),
        ("search.candidates=None", None),
        ("search.candidates=every", "every"),
        ("search.erk_weight=1", 1.0),
        ("search.erk_weight=None", None),
        ("search.penalty_doubles_at=()", ()),
        ("train.score=None", None),
        ("train.score=wanda", "wanda"),
        ("search.shrink_m=T", True),
        ("search.shrink_m=0", False),
        ("search.m=0x10", 16),
        ("search.objective=1", "1"),
        ("init=None", "None"),
    ],
)
def test_values_are_read_as_the_type_of_their_setting(override, value):
    config = scripts.settings(override)
    for part in override.partition("=")[0].split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


def test_the_last_of_two_values_counts():
    assert scripts.settings("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("word", ["--help", "-?", "--helpfull"])
def test_help_is_no_error(word):
    command = [sys.executable, "search.py", word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--workdir" in done.stdout
    assert "  search.budget=0.2\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_that_does_not_arrive_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "search.py", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "stdout: No space left on device\n")


class _Strange(BaseException):
    """Is no Exception."""


def _end(work, folder, capsys):
    """Returns how a script ends that does this work, and its lines on stderr."""
    try:
        code = command_line._guarded(work, folder)
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(0), r"^unexpected SystemExit: 0 \(.*test_command_line\.py, line \d+\): "),
        (SystemExit(), r"^unexpected SystemExit \(.*test_command_line\.py, line \d+\): "),
        (_Strange("odd"), r"^unexpected _Strange: odd; "),
        (GeneratorExit(), r"^unexpected GeneratorExit; "),
    ],
)
def test_code_that_ends_the_program_is_one_line(error, said, tmp_path, capsys):
    def work():
        raise error

    code, (line,) = _end(work, tmp_path, capsys)
    assert code == 1
    assert re.search(said, line)


def test_a_run_that_was_stopped_is_no_fault(tmp_path, capsys):
    def work():
        raise Stopped("stopped at step 3")

    assert _end(work, tmp_path, capsys)[0] == 75

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command_line._guarded(interrupted, tmp_path)


@contextlib.contextmanager
def _full():
    with Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        yield
        with contextlib.suppress(OSError):
            full.flush()


@contextlib.contextmanager
def _unread():
    """Is a pipe that nobody reads any more."""
    with subprocess.Popen("true", stdin=subprocess.PIPE, text=True) as process:
        process.wait()
        with contextlib.redirect_stdout(process.stdin):
            yield


@pytest.mark.parametrize(
    ("stdout", "said"), [(_full, "No space left on device"), (_unread, "Broken pipe")]
)
@pytest.mark.parametrize("show", [print, lambda text: console().print(text)], ids=["print", "rich"])
def test_a_stdout_that_takes_no_more_is_named(stdout, said, show, tmp_path, capsys):
    with stdout():
        ended = _end(lambda: show("scheme"), tmp_path, capsys)
    assert ended == (1, [f"stdout: {said}; what was done is in {tmp_path}"])
    with stdout():  # what else is wrong is said first
        ended = _end(lambda: (show("scheme"), {}["lost"]), tmp_path, capsys)
    assert ended[0] == 1
    assert len(ended[1]) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import runpy; sys.argv = ['search.py', '--help']; runpy.run_path('search.py')",
        "from domino_jax.settings import defaults; defaults()",
        "from domino_jax.run import command_line, config_file, overrides, settings_page",
    ],
)
def test_help_and_configs_import_no_jax(code):
    check = f"import sys\n{code}\nprint(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", check], text=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "domino_jax" in loaded
    assert loaded & {"jax", "jaxlib", "numpy", "flax", "optax", "orbax", "rich"} == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 75)])
def test_a_signal_during_the_start_leaves_no_traceback(number, code, tmp_path):
    process = scripts.start("search", tmp_path / "run")
    time.sleep(0.5)  # Python itself has started; JAX is being imported
    process.send_signal(number)
    ended, _, err = scripts.end(process)
    assert ended == code, err
    assert "Traceback" not in err


def test_signals_are_caught_before_anything_else_is_imported():
    check = "import sys; from domino_jax.run import signals; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", check], text=True, cwd=ROOT)
    ours = {name for name in output.split() if name.startswith("domino_jax")}
    assert ours == {"domino_jax", "domino_jax.run", "domino_jax.run.signals"}
    assert "absl" not in output.split()
    for script in ("search", "train"):
        source = (ROOT / f"{script}.py").read_text()
        start = source.index('if __name__ == "__main__":')
        imports = re.findall(r"^(?:from|import) (\S+)", source[:start], re.MULTILINE)
        assert imports == ["collections.abc", "pathlib", "typing", "domino_jax.run"]
        assert source.index("catch_signals()") < source.index("import command_line")


def test_both_signals_are_counted(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stops = signals.catch_signals()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stops == [signal.SIGTERM, signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        signals.end_at_once()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n  b\tc", "a b c"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\udcff.json", r"\udcff.json"),
        ("left\u202eright", r"left\u202eright"),
        ("é … 日 :llama: [red]", "é … 日 :llama: [red]"),
        ("x" * 3000, "x" * 2000 + "…"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_a_rehearsal_that_is_stopped_at_the_start_does_not_begin(tmp_path):
    config = scripts.settings("dry_run=True")
    with pytest.raises(Stopped, match="stopped before the first step"):
        command_line._work(lambda *_: pytest.fail("began"), config, tmp_path, [signal.SIGTERM])

"""What a phase shows: consoles and the progress bar."""

import pytest

from domino_jax.run import monitor


@pytest.fixture(autouse=True)
def in_a_pipe(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("columns", ["20", "300"])
def test_pipes_get_a_wide_console(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for stderr in (False, True):
        console = monitor.console(stderr=stderr)
        assert console.width == monitor.PIPE_WIDTH == 140
        assert console.stderr == stderr


def test_terminals_keep_their_width(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "91")
    assert monitor.console().width == 91


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_at_once_and_then_every_few_seconds(capsys, clock):
    seen = []
    with monitor.progress("dense training", 449, 0) as show:
        for step, seconds in ((50, 4.0), (100, 3.0), (150, 1.9), (200, 0.1), (449, 0.1)):
            clock[0] += seconds
            show(step, f"loss 0.{step}")
            seen.append(capsys.readouterr().err)
    assert seen == [
        "dense training 50/449  12.5 steps/s  loss 0.50\n",
        "",
        "",
        "dense training 200/449  22.2 steps/s  loss 0.200\n",
        "",
    ]
    last = capsys.readouterr()
    assert (last.out, last.err) == ("", "dense training 449/449  49.3 steps/s  loss 0.449\n")


def test_what_has_no_unit_has_no_rate(capsys):
    with monitor.progress("comparison", 3, 0, unit="") as show:
        show(1, "here")
    assert capsys.readouterr().err == "comparison 1/3  here\n"


def test_a_phase_that_fails_in_a_pipe_adds_no_line(capsys, clock):
    with pytest.raises(FloatingPointError), monitor.progress("search", 10, 4) as show:
        show(5, "loss 0.5")
        show(6, "loss 0.6")
        raise FloatingPointError
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with monitor.progress("search", 10, 4) as show:
        show(10, "loss 0.25")
    err = capsys.readouterr().err
    assert "━" in err
    assert "loss 0.25" in err


def test_the_rate_counts_the_steps_of_this_run_only(capsys, clock):
    with monitor.progress("search", 90, 40) as show:
        clock[0] += 4.0
        show(60, "")
    assert " 5.0 steps/s" in capsys.readouterr().err


@pytest.mark.parametrize("title", ["my:llama:", "[red]x", "[/]", "\x1b[31mx"])
def test_no_text_is_markup_in_a_bar_or_a_line(title, capsys, monkeypatch):
    shown = monitor.escaped(title)
    monitor.say(title)
    monitor.console().print(monitor.cell(title))
    monitor.console(stderr=True).print(monitor.escaped(title))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with monitor.progress(shown, 10, 4) as show:
        show(10, shown)
    out, err = capsys.readouterr()
    assert out == f"{shown}\n"
    assert err.startswith(f"{shown}\n{shown}\n")
    assert err.count(shown) >= 4

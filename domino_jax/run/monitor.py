"""What a running phase shows on stderr: its progress, or one line at a time."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from domino_jax.core.errors import escaped
from domino_jax.run import cluster

# Wide enough for the longest row of a ResNet-152; pipes have no width of their own.
PIPE_WIDTH = 140
PIPE_SECONDS = 5.0  # from line to line


def console(*, stderr: bool = False) -> Console:
    """Makes a console that does not fold tables when its output goes to a file.

    Nothing is markup or an emoji in it: a name such as 'my:llama' or '[red]' is printed as it is.
    """
    probe = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if probe.is_terminal:
        return probe
    return Console(stderr=stderr, width=PIPE_WIDTH, markup=False, emoji=False, highlight=False)


def cell(text: str) -> Text:
    """Makes text from outside part of a table or a line, whatever console prints it."""
    return Text(escaped(text))


def say(line: str) -> None:
    """Prints a line about the run on stderr: what it found, on stdout, is the same anywhere."""
    if cluster.is_first():
        print(escaped(line), file=sys.stderr, flush=True)


@contextmanager
def progress(
    title: str, steps: int, start: int, *, unit: str = "steps"
) -> Iterator[Callable[[int, str], None]]:
    """Shows how far a phase is and its rate, if it has a unit; yields show(step, text).

    On a terminal as a bar, elsewhere as lines: the first at once, then one every few seconds at
    most, and the last. What went wrong is the last line: a phase that fails adds none.
    """
    began = time.perf_counter()

    def rate(step: int) -> str:
        seconds = max(time.perf_counter() - began, 1e-9)
        return f"{(step - start) / seconds:.1f} {unit}/s" if unit else ""

    if not cluster.is_first():
        yield lambda step, text: None
        return
    on_terminal = console(stderr=True).is_terminal
    with _bar(title, steps, start) if on_terminal else _lines(title, steps) as show:
        yield lambda step, text: show(step, rate(step), text)


Show = Callable[[int, str, str], None]  # (step, rate, text)


@cache
def _screen() -> Console:
    """Returns the one console of all bars: one within another must know of it."""
    return console(stderr=True)


@contextmanager
def _bar(title: str, steps: int, start: int) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=_screen(), refresh_per_second=4) as bar:
        task = bar.add_task(title, total=steps, completed=start, rate="", text="")
        try:
            yield lambda step, rate, text: bar.update(task, completed=step, rate=rate, text=text)
        except BaseException:
            bar.live.transient = True
            raise


@contextmanager
def _lines(title: str, steps: int) -> Iterator[Show]:
    printed = -math.inf
    waiting = ""

    def show(step: int, rate: str, text: str) -> None:
        nonlocal printed, waiting
        waiting = "  ".join(part for part in (f"{title} {step}/{steps}", rate, text) if part)
        if time.perf_counter() - printed >= PIPE_SECONDS:
            printed = time.perf_counter()
            say(waiting)
            waiting = ""

    yield show
    if waiting:
        say(waiting)

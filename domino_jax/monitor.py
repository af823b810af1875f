"""What a running phase shows: a progress bar on stderr and TensorBoard events on disk."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# Wide enough for the longest row of a ResNet-152; pipes have no width of their own.
PIPE_WIDTH = 140


def console(*, stderr: bool = False) -> Console:
    """Makes a console that does not fold tables when its output goes to a file."""
    probe = Console(stderr=stderr)
    return probe if probe.is_terminal else Console(stderr=stderr, width=PIPE_WIDTH)


@contextmanager
def progress(title: str, steps: int, start: int) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar with the rate; yields show(step, text)."""
    began = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(title, total=steps, completed=start, rate="", text="")

        def show(step: int, text: str) -> None:
            rate = (step - start) / max(time.perf_counter() - began, 1e-9)
            bar.update(task, completed=step, text=text, rate=f"{rate:.1f} steps/s")

        try:
            yield show
        except BaseException:
            # What went wrong is all that stays; rich ends a bar in a pipe with a line of its own.
            bar.live.transient = True
            bar.console.quiet = not bar.console.is_terminal
            raise


@contextmanager
def events(folder: Path, start: int = 0) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Opens TensorBoard events in a folder; yields write(step, scalars).

    TensorBoard then hides what a killed run wrote there about steps after `start`.
    """
    with ExitStack() as stack:

        @cache
        def writer() -> Any:
            # Imported with the first values: it takes 0.3 s, or 1.3 where it finds PyTorch.
            from tensorboardX import SummaryWriter  # noqa: PLC0415

            opened = SummaryWriter(str(folder), flush_secs=10, purge_step=start + 1)
            return stack.enter_context(opened)

        def write(step: int, scalars: Mapping[str, float]) -> None:
            for name, value in scalars.items():
                writer().add_scalar(name, value, step)

        yield write

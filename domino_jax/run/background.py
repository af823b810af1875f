"""A thread beside a loop, so that a step need not wait until the state before it is on disk."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Act = Callable[[], None]

# Of 19: where steps use every core, the work beside them gets a tenth of one. SCHED_IDLE would cost
# a step still less, but then the jobs of others could keep a last save waiting without end.
NICE = 10


@dataclass(frozen=True)
class Background:
    """One piece of work at a time in a thread of its own; what fails there is raised here.

    Attributes:
        pool: the thread.
        running: what was started last and not yet asked for.
    """

    pool: ThreadPoolExecutor
    running: list[Future[None]] = field(default_factory=list)

    def start(self, act: Act) -> None:
        """Starts a piece of work, as soon as the one before has ended well."""
        self.wait()
        self.running.append(self.pool.submit(act))

    def check(self) -> None:
        """Raises what failed, without waiting for what still runs."""
        if self.running and self.running[0].done():
            self.wait()

    def wait(self) -> None:
        """Waits for what runs, and raises what failed."""
        while self.running:
            self.running.pop().result()


@contextmanager
def background(name: str) -> Iterator[Background]:
    """Yields a thread, which steps go before; waits for its work, however the block ends."""
    with ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_step_aside) as pool:
        beside = Background(pool)
        try:
            yield beside
        finally:
            beside.wait()


def _step_aside() -> None:
    """Lowers the priority of this thread, and of those that it starts, where threads have one."""
    if sys.platform == "linux":
        thread = (os.PRIO_PROCESS, threading.get_native_id())
        with suppress(OSError):  # some containers forbid it
            os.setpriority(*thread, max(NICE, os.getpriority(*thread)))

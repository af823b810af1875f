"""A thread beside a loop, so that a step need not wait until the state before it is on disk."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

Act = Callable[[], None]


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
    """Yields a thread; waits for its work at the end, however the block ends."""
    with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
        beside = Background(pool)
        try:
            yield beside
        finally:
            beside.wait()

"""SIGTERM and Ctrl-C from the first moment on; the standard library alone, to be there at once."""

import os
import signal
from types import FrameType


def catch_signals() -> list[int]:
    """Returns a list to which SIGTERM and SIGINT are added as they come.

    What runs asks it before every step. A second Ctrl-C ends the process at once.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Not print: it may be what was interrupted.
            os.write(2, b"\nstopping as soon as all is saved; Ctrl-C again ends at once\n")

    signal.signal(signal.SIGTERM, catch)
    signal.signal(signal.SIGINT, catch)
    return caught


def end_at_once() -> None:
    """Lets both signals end the process: nothing is to be saved."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

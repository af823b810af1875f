"""Events of TensorBoard: what is written, and what becomes of errors of the disk."""

import struct
import subprocess
import sys

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from domino_jax.run import events


def read_events(folder):
    """Reads TensorBoard's records: length, its checksum, the event, its checksum."""
    (path,) = folder.iterdir()
    data, scalars = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        for part, stored in ((data[:8], data[8:12]), (body, data[12 + length : 16 + length])):
            crc = crc32c(part)
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", stored) == (masked,)
        event = Event.FromString(body)
        scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return scalars


def test_events_can_be_read_back(tmp_path):
    folder = tmp_path / "search"
    with events.events(folder) as write:
        write(50, {"loss": 0.5, "n/conv1/kernel": 8.0})
        write(100, {"loss": 0.25})
    assert read_events(folder) == [
        (50, "loss", 0.5),
        (50, "n/conv1/kernel", 8.0),
        (100, "loss", 0.25),
    ]


def test_events_without_values_leave_nothing(tmp_path):
    with events.events(tmp_path / "search"):
        pass
    assert not (tmp_path / "search").exists()


def test_events_are_on_disk_when_a_phase_fails(tmp_path):
    with pytest.raises(FloatingPointError), events.events(tmp_path) as write:
        write(1, {"loss": 0.5})
        raise FloatingPointError
    assert read_events(tmp_path) == [(1, "loss", 0.5)]


# The disk is full from the first byte on; the error comes to whoever writes next, or closes.
FULL = """
import sys, time
from pathlib import Path
from domino_jax.run import events
open_file = events._EventFile
events._EventFile = lambda path: open_file(Path("/dev/full"))
try:
    with events.events(sys.argv[1]) as write:
        write(1, {"loss": 0.5})
        if sys.argv[2] == "next":
            time.sleep(0.5)
            write(2, {"loss": 0.5})
            print("not reached")
except OSError as error:
    print(error.strerror, error.filename)
"""


@pytest.mark.parametrize("when", ["next", "at the end"])
def test_a_full_disk_is_one_error_and_no_traceback_of_a_thread(when, tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path / "search"), when]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("No space left on device /dev/full\n", "")


class Late(events._EventFile):
    """Fails when it is closed."""

    def close(self):
        super().close()
        self.error = OSError("full")


def test_a_phase_that_fails_for_another_reason_says_that(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "_EventFile", Late)
    with pytest.raises(FloatingPointError), events.events(tmp_path / "a") as write:
        write(1, {"loss": 0.5})
        raise FloatingPointError
    with pytest.raises(OSError, match="full"), events.events(tmp_path / "b") as write:
        write(1, {"loss": 0.5})


def test_a_path_may_have_colons(tmp_path):
    """tensorboardX would take what is in front of one for a store of its own."""
    with events.events(tmp_path / "s3:a:b") as write:
        write(1, {"loss": 0.5})
    assert read_events(tmp_path / "s3:a:b") == [(1, "loss", 0.5)]

"""Which pictures cannot be read: asked before a run, since one of them could end it.

Every file is opened, in threads, and as much of it is looked at as is cheap:

- a JPEG, as most large data sets have: the head, up to the start of the pixels, and the mark at its
  end. What is broken between them decodes to wrong pixels, not to an error. 0.1 ms a file.
- a PNG: the checksum of each of its parts. 1 ms a file of 300 kB.
- everything else, and where that is not clear: it is decoded whole.
"""

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import UnidentifiedImageError

from domino_jax.core.errors import InputError
from domino_jax.data import Broken, Progress
from domino_jax.data.images import decode, opened, size_of

_HEAD = 1 << 16  # bytes; JPEGs with larger heads are decoded
_TAIL = 32
_AT_A_TIME = 64  # files that a thread checks before it reports


def broken(files: Mapping[str, str], progress: Progress) -> list[Broken]:
    """Returns the files that are no pictures that can be read, in their order.

    Args:
        files: name -> path.
        progress: told how many files are checked, of how many.
    """
    names, broken_files, done = list(files), [], 0
    parts = [names[start : start + _AT_A_TIME] for start in range(0, len(names), _AT_A_TIME)]

    def check(part: list[str]) -> list[Broken]:
        reasons = [(name, files[name], why_broken(files[name])) for name in part]
        return [Broken(*reason) for reason in reasons if reason[-1]]

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        for part, some in zip(parts, threads.map(check, parts), strict=True):
            broken_files += some
            done += len(part)
            progress(done, len(names))
    return broken_files


def why_broken(path: str) -> str:
    """Says why a file is no picture that can be read; '' if it is one."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            if head.startswith(b"\xff\xd8"):
                file.seek(max(0, size - _TAIL))
                if _is_whole_jpeg(head, file.read()):
                    return ""
                file.seek(0)
                head = b""
            data = head + file.read()
    except OSError as error:
        return "a link to nothing" if Path(path).is_symlink() else (error.strerror or str(error))
    return _why_undecodable(data) if data else "the file is empty"


def _is_whole_jpeg(head: bytes, tail: bytes) -> bool:
    """Does it have its size in front and the mark of its end (FF D9) behind, or zeros after it?

    The head is a row of segments FF <kind> <length, two bytes> <length - 2 bytes>. A frame (C0 to
    CF, but for three kinds) has the precision, then rows and columns; DA starts the pixels.
    """
    if not tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        return False
    place, sized = 2, False
    while head[place : place + 1] == b"\xff" and place + 9 <= len(head):
        kind = head[place + 1]
        if kind == 0xFF:  # any number of them may come first
            place += 1
            continue
        if kind == 0xDA:
            return sized
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            sized = any(head[place + 5 : place + 7]) and any(head[place + 7 : place + 9])
        place += 2 + int.from_bytes(head[place + 2 : place + 4])
    return False


def _is_whole_png(data: bytes) -> bool:
    """Are its parts <length, 4 bytes> <kind, 4> <content> <checksum, 4> whole up to the last?"""
    place = 8
    while data[12:16] == b"IHDR" and place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        checksum = int.from_bytes(data[end : end + 4])
        if zlib.crc32(data[place + 4 : end]) != checksum:
            return False
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def _why_undecodable(data: bytes) -> str:
    try:
        size_of(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n") and _is_whole_png(data):
            return ""
        decode(data)  # as training and evaluation will
        _require_whole(data)
    except InputError as error:
        return str(error)
    return ""


def _require_whole(data: bytes) -> None:
    """Refuses a picture that ends early, which OpenCV fills up with gray."""
    try:
        with opened(data) as image:
            image.load()
    except InputError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):  # OpenCV may read it alone
            raise

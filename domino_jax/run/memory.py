"""Keeps freed memory for the next step, instead of giving it back to the system after each.

XLA's CPU client asks the C library for all of a step's temporary memory at once, and frees it at
the end. Of glibc such a block is fresh pages every time, which the kernel has to find and clear:
75,000 of them in a step of the byte model, a quarter of its time. Kept, they are there already.
The price is that a process stays as large as it has been, that its threads share one arena, and
that this must be told before JAX starts its threads: told later, a quarter of the gain is left.
Where a GPU or a TPU does the work nothing is gained, so nothing is told.

Of large networks the blocks are so large, and of so many sizes, that the holes between them cost
more than fresh pages: the search of a language model of 135 million weights took twice the memory.
So these give theirs back.
"""

import ctypes
import os
import platform
from collections.abc import Iterable
from importlib import metadata, util

# Of malloc.h. Blocks beyond 32 MB always come from mmap, and other arenas than the first cannot
# hold them, unless both are shut off.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MMAP_MAX_DEFAULT = 65_536
_LARGE = 2**27  # bytes of weights; ResNet-50 has 2**26.6
_OPTIONS = ((_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0), (_ARENA_MAX, 1))


def keep_freed() -> bool:
    """Tells the C library to keep what is freed; call it before JAX starts its threads.

    Returns:
        whether it was told: only glibc's, on Linux, has these options, and only CPUs need them.
    """
    return _tell(_OPTIONS)


def give_back_of(size: int) -> bool:
    """Tells the C library to give back what is freed, if weights of so many bytes are large.

    Returns:
        whether it was told.
    """
    return size > _LARGE and _tell([(_MMAP_MAX, _MMAP_MAX_DEFAULT)])


def _tell(options: Iterable[tuple[int, int]]) -> bool:
    if platform.libc_ver()[0] != "glibc" or not _is_for_cpus():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) == 1 for option, value in options)


def _is_for_cpus() -> bool:
    """Says whether JAX will compute on CPUs, without asking JAX: that would start its threads."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not metadata.entry_points(group="jax_plugins") and util.find_spec("libtpu") is None

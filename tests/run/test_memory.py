"""Freed memory is there again: a second block of the same size touches no new pages."""

import platform
import subprocess
import sys

import pytest

from domino_jax.run import memory

# 256 MB, written and freed twice; what the second one costs in pages of 4 kB.
PAGES = """
import ctypes, resource, sys
from domino_jax.run import memory
if sys.argv[1] != "given back":
    assert memory.keep_freed()
if sys.argv[1] == "of many weights":
    assert memory.give_back_of(2**27 + 1)
else:
    assert not memory.give_back_of(2**27)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(2**28)
    ctypes.memset(block, 1, 2**28)
    library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the options")
def test_the_second_block_needs_no_new_pages():
    pages = {}
    for word in ("kept", "given back", "of many weights"):
        command = [sys.executable, "-c", PAGES, word]
        pages[word] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert pages["kept"] < 100
    assert pages["given back"] > 100
    assert pages["of many weights"] > 100


@pytest.mark.parametrize("platforms", ["cuda,cpu", "tpu"])
def test_where_others_compute_nothing_is_told(platforms, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # not even asked for
    assert not memory.keep_freed()


def test_a_plugin_for_gpus_is_seen(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(memory.metadata, "entry_points", lambda group: [group])
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert not memory.keep_freed()

"""Strict settings for every test: two virtual devices, no silent promotion of types or ranks.

Compiled programs go to a folder of the session, which processes that a test starts share; to keep
them from one session to the next, name one: JAX_COMPILATION_CACHE_DIR=...
Programs are small and most run once: LLVM optimizes them little, which saves much of the time that
a step with masks takes to compile. Slow tests compute: they are compiled as users compile, which
takes a quarter of their time. For all tests so: XLA_FLAGS=--xla_backend_optimization_level=3.
Traced programs are many small objects that stay: Python's collector went through them again and
again, a quarter of the time that a large network takes to trace. It waits for more.
Properties are tried on few examples, always the same; on more: HYPOTHESIS_PROFILE=more.
"""

import gc
import os
import sys
import tempfile
import types
from pathlib import Path

gc.set_threshold(50_000, 20, 20)
_asked = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = (
    # What comes last counts.
    f"--xla_backend_optimization_level=1 {_asked} --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_compiled = tempfile.TemporaryDirectory(prefix="domino_jax_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# torchvision's definitions need none of the operators that a CPU build of PyTorch lacks.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("stub")

if "DOMINO_JAX_RAISES" in os.environ:
    import raises

    raises.watch(Path(os.environ["DOMINO_JAX_RAISES"]))
    paths = [str(Path(__file__).parent / "watched"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

import jax  # noqa: E402 (reads the environment)


def pytest_configure(config):
    """Has slow tests compiled as users compile; XLA reads its flags when it starts a device."""
    if config.option.markexpr == "slow" and "optimization_level" not in _asked:
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=3"


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from hypothesis import settings  # noqa: E402 (imports nothing of ours)

settings.register_profile("few", derandomize=True, max_examples=40, deadline=None, database=None)
settings.register_profile("more", max_examples=2000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

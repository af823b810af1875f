"""Several processes that make one run, on JAX's own distributed runtime.

    python search.py --config=... --coordinator=10.0.0.1:1234 --processes=2 --process=0
    python search.py --config=... --coordinator=10.0.0.1:1234 --processes=2 --process=1

Under SLURM, Open MPI, Kubernetes and on TPU pods JAX finds the three by itself. All processes see
one work directory; the first one prints, draws and holds its lock.
"""

import os
import re
from collections.abc import Callable, Mapping

from absl import flags

from domino_jax.core.errors import InputError

COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of the first process, where several make one run."
)
PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes make the run.")
PROCESS = flags.DEFINE_integer("process", -1, "Which of them this is, from 0.")
HEARTBEAT = 30  # seconds after which a process that is gone ends all others
STEPS = 10  # from one agreement on stopping to the next: each waits for the devices


def join() -> None:
    """Connects this process with the others of its run, if there are any.

    Raises:
        InputError: some of the flags are missing or wrong, or the others are out of reach.
    """
    connect(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def connect(address: str, count: int, index: int) -> None:
    """Does what `join` does, of these values of the flags; errors as of `join`."""
    import jax  # noqa: PLC0415 (not for --help)

    # JAX's own watch for SIGTERM would take the signal from ours, which `agreed` asks.
    jax.config.update("jax_enable_preemption_service", False)
    if not address and not count and index < 0:
        if _is_cluster(os.environ):
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
        return
    if not re.fullmatch(r".+:[0-9]+", address) or count < 1 or not 0 <= index < count:
        raise InputError(
            "expected --coordinator=HOST:PORT --processes=COUNT --process=INDEX, the index below "
            f"the count, got {address!r}, {count} and {index}"
        )
    try:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=HEARTBEAT)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--coordinator={address}: {reason}") from None


def is_first() -> bool:
    """Says whether this process speaks for its run; starts no device where it is the only one."""
    import jax  # noqa: PLC0415

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agreed(should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Makes the question whether to stop one that all processes answer alike.

    A signal reaches them at different steps, and a step needs all of them. They agree on every
    tenth question: what one was asked in between, all hear then.
    """
    import jax  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from jax.experimental import multihost_utils  # noqa: PLC0415

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return should_stop
    asked, answer = 0, False

    def ask() -> bool:
        nonlocal asked, answer
        if asked % STEPS == 0:
            answer = bool(np.any(multihost_utils.process_allgather(np.array(should_stop()))))
        asked += 1
        return answer

    return ask


def _is_cluster(environment: Mapping[str, str]) -> bool:
    """Says whether a launcher of several processes started this one."""

    def many(name: str) -> bool:
        return environment.get(name, "").isdigit() and int(environment[name]) > 1

    return (
        (many("SLURM_NTASKS") and "SLURM_STEP_NODELIST" in environment)
        or many("OMPI_COMM_WORLD_SIZE")
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
    )

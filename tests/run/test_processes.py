"""Two processes that make one run, over this machine's own network."""

import os
import signal
import socket
import time

import jax
import numpy as np
import pytest
import scripts

from domino_jax.core import scheme
from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, cluster

DOUBLE = scripts.ROOT / "tests" / "double.py"
TWO_DEVICES = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def both(script, folder, *arguments):
    """Starts a script as two processes of one device each."""
    shared = (f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", *arguments)
    return [
        scripts.start(
            script,
            folder,
            *shared,
            f"--process={i}",
            config=DOUBLE,
            JAX_ENABLE_X64="1",
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    for script in ("search", "train"):
        ends = [scripts.end(process) for process in both(script, tmp_path / "two")]
        assert [code for code, _, _ in ends] == [0, 0], ends
        # The first alone prints, besides what the runtime says of its connections.
        lines = [[line for line in out.splitlines() if "Gloo" not in line] for _, out, _ in ends]
        assert lines[0]
        assert not lines[1]
        code, _, errors = scripts.end(
            scripts.start(
                script,
                tmp_path / "one",
                config=DOUBLE,
                JAX_ENABLE_X64="1",
                XLA_FLAGS=TWO_DEVICES,
            )
        )
        assert code == 0, errors
    schemes = [scheme.load(tmp_path / name / "scheme.json") for name in ("one", "two")]
    assert schemes[0] == schemes[1]
    one, two = (scripts.arrays(tmp_path / name / "train" / "sparse") for name in ("one", "two"))
    for path, leaf in one.items():
        assert leaf.dtype == np.float64
        np.testing.assert_allclose(two[path], leaf, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_run_of_which_one_process_died_ends_and_goes_on(tmp_path):
    long = ("--config.dense.epochs=100000", "--config.checkpoint_every=10")
    processes = both("search", tmp_path, *long)
    while not (tmp_path / "dense" / "10").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    os.kill(processes[1].pid, signal.SIGKILL)
    began = time.monotonic()
    code, _, errors = scripts.end(processes[0])
    assert code != 0, errors
    assert time.monotonic() - began < 60
    scripts.end(processes[1])
    again = both("search", tmp_path, *long)
    last = max(checkpoint.steps(tmp_path / "dense"))
    while max(checkpoint.steps(tmp_path / "dense")) <= last:
        assert all(process.poll() is None for process in again)
        time.sleep(0.1)
    for process in again:  # a stop of one is a stop of both, at one step
        process.send_signal(signal.SIGTERM)
    assert [scripts.end(process)[0] for process in again] == [75, 75]


@pytest.mark.parametrize(
    ("address", "count", "index"),
    [("", 2, 0), ("host", 2, 0), ("host:1", 0, 0), ("host:1", 2, 2), ("host:1", 2, -1)],
)
def test_flags_that_do_not_fit(address, count, index):
    with pytest.raises(InputError, match="expected --coordinator=HOST:PORT --processes=COUNT"):
        cluster.connect(address, count, index)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8"}, False),  # in a batch script, not in a step
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, False),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "a[1-8]"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_launchers_are_known_by_what_they_set(environment, expected):
    assert cluster._is_cluster(environment) is expected


def test_others_that_cannot_be_reached(monkeypatch):
    def initialize(*arguments, **options):
        raise RuntimeError("deadline exceeded\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    with pytest.raises(InputError, match=r"^--coordinator=host:1: deadline exceeded$"):
        cluster.connect("host:1", 2, 0)

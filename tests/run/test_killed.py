"""Real processes, stopped at random moments and started again, end as if nothing had happened."""

import itertools
import random
import signal
import subprocess
import time

import pytest
import scripts

from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, workdir

DIGITS = [
    f"--config.{setting}"
    for setting in (
        *("log_every=5", "checkpoint_every=10", "dense.epochs=1.0", "dense.warmup_epochs=0.0"),
        *("search.method=domino", "search.budget=0.6", "search.penalty=10.0"),
        *("search.vote_every=5",),
        *("train.epochs=2.0", "train.warmup_epochs=0.0"),
    )
]


def start_digits(script, folder, *arguments):
    config = scripts.ROOT / "configs" / "digits.py"
    # Its own cache: a killed process may leave half of a program there, which JAX warns of.
    cache = str(folder.parent / "compiled")
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_FLAGS": ""}
    return scripts.start(script, folder, *DIGITS, *arguments, config=config, **environment)


def progress(folder, phases):
    return sum(checkpoint.latest(folder / phase) or 0 for phase in phases)


def stop_at(process, folder, phases, steps, delay, number):
    """Sends a signal some time after a process has saved so many steps; returns its exit code."""

    def is_ready():
        # Before a process has the lock, SIGTERM may still end Python as it does by default.
        lock = folder / workdir.LOCK
        locked = lock.exists() and lock.read_text().split()[:1] == [str(process.pid)]
        return progress(folder, phases) >= steps and (locked or number == signal.SIGKILL)

    until = time.monotonic() + 240
    while not is_ready() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(delay)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    return scripts.end(process)


def require_stopped(number, code, err):
    if number == signal.SIGKILL:
        assert code == -9, err
    else:  # after its last step a process may end as if nothing had come
        assert code == 0 or (code, "goes on from there" in err) == (75, True), err


def require_gone(group):
    """Waits for the end of all processes of a group, such as workers."""
    command = ["ps", "-o", "stat=,args=", "-g", str(group)]
    until = time.monotonic() + 30
    while True:
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        alive = [line for line in lines.splitlines() if not line.startswith("Z")]
        if not alive:
            return
        assert time.monotonic() < until, alive
        time.sleep(0.1)


@pytest.mark.parametrize("step", [3, 12])
def test_a_directory_that_goes_in_mid_run_does_not_come_back(tmp_path, step):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    asked = itertools.count()

    def should_stop():
        if next(asked) == step:
            folder.rename(elsewhere)
        return False

    with pytest.raises(InputError, match=f"^workdir {folder}: it was moved or removed"):
        scripts.search(folder, should_stop=should_stop)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    scripts.search(elsewhere)
    assert (elsewhere / "scheme.json").exists()


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path):
    """Five moments in search.py and five in train.py: start-up, steps, saving, the end."""
    one, other = tmp_path / "undisturbed", tmp_path / "killed"
    seed = random.randrange(1 << 32)
    print("seed", seed)
    draw = random.Random(seed)
    for script, phases in (("search", scripts.PHASES[:2]), ("train", scripts.PHASES[2:])):
        began = time.monotonic()
        code, printed, err = scripts.end(start_digits(script, one))
        assert code == 0, err
        print(script, f"{time.monotonic() - began:.1f} s")
        total = progress(one, phases)
        inside = sorted(draw.uniform(0, 0.9 * total) for _ in range(3))
        numbers = [signal.SIGTERM, signal.SIGKILL, draw.choice((signal.SIGTERM, signal.SIGKILL))]
        draw.shuffle(numbers)
        moments = [
            (0.0, draw.uniform(0, 2), signal.SIGKILL),  # Python itself may not be there yet
            *zip(inside, [draw.uniform(0, 0.2) for _ in inside], numbers, strict=True),
            (total, draw.uniform(0, 0.2), draw.choice(numbers)),  # before the results are written
        ]
        for steps, delay, number in moments:
            workers = int(steps == inside[1])
            what = f"{number.name} {delay:.2f} s after step {steps:.0f}, {workers} workers"
            process = start_digits(script, other, f"--config.data.workers={workers}")
            code, _, err = stop_at(process, other, phases, steps, delay, number)
            print(what, code)
            require_stopped(number, code, err)
            require_gone(process.pid)
        code, again, err = scripts.end(start_digits(script, other))
        assert (code, again) == (0, printed), err
    scripts.require_same_end(one, other)

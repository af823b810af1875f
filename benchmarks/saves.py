"""Measures what a checkpoint costs a training, beside its steps.

    python -m benchmarks.saves

ResNet-18 in its CIFAR form with momentum, 32x32, batch 64. A save copies the state from the
devices, for which the next step waits; beside the steps a thread writes it, reads it back, compares
every bit and puts checksums there. Two minutes on two cores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.clock import in_turns, machine, print_table, spread
from domino_jax import models
from domino_jax.run import checkpoint, host, manifest, orbax_files
from domino_jax.run.background import background
from domino_jax.run.settings import defaults
from domino_jax.train import losses
from domino_jax.train.step import TrainState, dense_step, init_state

GOAL = 1.2  # a step during a save over a step
LEAST = 3  # steps, to compare


def training(name: str, size: int, batch: int) -> tuple[Callable[[], TrainState], Any]:
    """Makes a function that makes a step and returns the state."""
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = models.create(name, example=example, classes=10, seed=0)
    tx = optax.sgd(0.01, 0.9)
    step = dense_step(model.apply, losses.cross_entropy(), tx)
    held = init_state(model.params, model.stats, tx)
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(batch, size, size, 3)), jnp.float32)
    data = {"inputs": inputs, "labels": jnp.zeros(batch, jnp.int32)}

    def call() -> TrainState:
        nonlocal held
        held, loss = step(held, None, data, jax.random.key(0))
        jax.block_until_ready((held, loss))
        return held

    return call, lambda: held


def parts_of_a_save(folder: Path, state: Callable[[], TrainState]) -> dict[str, Callable[[], Any]]:
    """Makes a whole save, and its parts each by itself, on the state as it is."""
    count = iter(range(1, 1 << 30))

    def fresh() -> Path:
        return folder / f"part{next(count)}"

    written = fresh()
    leaves = manifest.leaves_of(host.snapshot(state()))
    orbax_files.write(written, leaves)
    return {
        "copy to the host": lambda: host.snapshot(state()),
        "save": lambda: checkpoint.save(folder / "steps", next(count), state(), keep=1),
        "of it: write": lambda: orbax_files.write(fresh(), leaves),
        "of it: read back and compare": lambda: host.first_difference(
            orbax_files.read(written, leaves), leaves
        ),
    }


def beside_saves(
    folder: Path, step: Callable[[], object], state: Callable[[], TrainState], rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes steps alone and steps during a save, in turns.

    Returns:
        Seconds of a step of each round: alone, and from the start of a save to its end, with the
        copy that it waits for.
    """
    alone, during = [], []
    with background("saves") as saving:
        for number in range(rounds):
            began, steps = time.perf_counter(), 0
            held = host.snapshot(state())
            saving.start(partial(checkpoint.save, folder, number, held))
            while saving.running or steps < LEAST:
                step()
                saving.check()
                steps += 1
            during.append((time.perf_counter() - began) / steps)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            alone.append((time.perf_counter() - began) / steps)
    return np.array(alone), np.array(during)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    step, state = training(args.model, args.size, args.batch)
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(step())) / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times, _ = in_turns(parts_of_a_save(folder, state), args.rounds)
        alone, during = beside_saves(folder / "beside", step, state, args.rounds)
    print(
        f"\n{args.model}, {args.size}x{args.size}, batch {args.batch}: a state of "
        f"{megabytes:.1f} MB; s: median (quartiles) of {args.rounds} rounds\n"
    )
    times = {"step alone": alone, "step during a save": during, **times}
    print_table(
        ["", "s"], [[what, spread(found, unit=1, digits=3)] for what, found in times.items()]
    )
    slower, one = float(np.median(during / alone)), float(np.median(alone))
    every = defaults().checkpoint_every
    copy = float(np.median(times["copy to the host"]))
    print(
        f"\na step during a save takes {slower:.2f} of one alone (goal {GOAL}); with "
        f"checkpoint_every = {every:,} the copies take {copy / (every * one):.3%} of the time"
    )


if __name__ == "__main__":
    main()

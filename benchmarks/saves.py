"""Measures what a checkpoint costs a training, beside its steps.

    python -m benchmarks.saves

ResNet-18 in its CIFAR form with momentum, 32x32, batch 64. A save copies the state from the
devices, writes it, reads it back and compares every bit, and puts checksums beside it; the next
step waits for all of that. Two minutes on two cores.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.clock import in_turns, machine, print_table, spread
from domino_jax import models
from domino_jax.run import checkpoint, host, manifest, orbax_files
from domino_jax.run.settings import defaults
from domino_jax.train import losses
from domino_jax.train.step import TrainState, dense_step, init_state

GOAL = 1.2  # a step during a save over a step


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
    leaves = host.to_host(manifest.leaves_of(state()))
    orbax_files.write(written, leaves)
    return {
        "save": lambda: checkpoint.save(folder / "steps", next(count), state(), keep=1),
        "copy to the host": lambda: host.to_host(manifest.leaves_of(state())),
        "write": lambda: orbax_files.write(fresh(), leaves),
        "read back and compare": lambda: host.first_difference(
            orbax_files.read(written, leaves), leaves
        ),
    }


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
        times, _ = in_turns({"step": step, **parts_of_a_save(Path(name), state)}, args.rounds)
    print(
        f"\n{args.model}, {args.size}x{args.size}, batch {args.batch}: a state of "
        f"{megabytes:.1f} MB; s: median (quartiles) of {args.rounds} rounds\n"
    )
    print_table(
        ["", "s"], [[what, spread(found, unit=1, digits=3)] for what, found in times.items()]
    )
    one, save = (float(np.median(times[what])) for what in ("step", "save"))
    every = defaults().checkpoint_every
    print(
        f"\na step with a save takes {(one + save) / one:.2f} of one without (goal {GOAL}); with "
        f"checkpoint_every = {every:,} saves take {save / (every * one):.2%} of the time"
    )


if __name__ == "__main__":
    main()

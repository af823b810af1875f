"""Times a step of every trainer against the dense step with the same optimizer.

    python -m benchmarks.trainers

ResNet-18 in its ImageNet form, images of 96x96, batch 32, at 2:16, in the middle of a training.
`step` trains with AdamW and is held against dense AdamW; the others with momentum. Five minutes on
two cores.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from domino_jax import find_layers, models, n_by_path
from domino_jax.allocate.uniform import uniform
from domino_jax.core import compiling
from domino_jax.run import memory
from domino_jax.run.settings import defaults
from domino_jax.train import losses
from domino_jax.train.optim import dense_optimizer
from domino_jax.train.step import first_state, trainer_step
from domino_jax.train.trainer import Trainer, Training, dense_trainer
from domino_jax.train.trainers import TRAINERS, make_trainer

GOAL = 1.15
STEPS = 1000  # of the training whose middle is timed
WITHOUT_STEPS = ("none", "update")
CLASSES = 1000


def options(optimizer: str) -> dict[str, Any]:
    """Returns the settings of a training with an optimizer."""
    return dict(defaults().train.items()) | {"optimizer": optimizer, "lr": 1e-3}


def dense(optimizer: str) -> Trainer:
    """Makes the dense trainer of an optimizer."""
    own = options(optimizer)
    tx = dense_optimizer(optimizer, own["lr"], own["momentum"], own["weight_decay"])
    return dense_trainer(tx)


def stepping(model: Any, trainer: Trainer, n: Any, batch: Any) -> Callable[[], None]:
    """Compiles a trainer's step and calls it again and again on the state it returned last."""
    start = trainer.init(jax.tree.map(jnp.array, model.params), n)
    held = first_state(start.params, jax.tree.map(jnp.array, model.stats), start.state)
    held = held._replace(step=jnp.int32(STEPS // 2))
    key = jax.random.key(0)
    compiler_options = compiling.options(batch["inputs"])
    loss = losses.cross_entropy()
    step = trainer_step(model.apply, loss, trainer, compiler_options=compiler_options)

    def call() -> None:
        nonlocal held
        held, loss = step(held, start.target, batch, key)
        jax.block_until_ready((held, loss))

    return call


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    with_steps = [name for name in TRAINERS if name not in WITHOUT_STEPS]
    parser.add_argument("--trainers", nargs="+", choices=with_steps, default=with_steps)
    args = parser.parse_args()
    memory.keep_freed()  # as the scripts do
    print(machine())
    example = jax.ShapeDtypeStruct((1, args.size, args.size, 3), jnp.float32)
    model = models.create(args.model, example=example, classes=CLASSES, seed=0)

    def forward(params: Any, inputs: Any) -> Any:
        return model.apply(params, model.stats, inputs, train=False, key=None)[0]

    layers = find_layers(forward, model.params, example, args.m)
    n = n_by_path(uniform(layers, max(args.m // 8, 1)), layers)
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    batch = {
        "inputs": jnp.asarray(rng.normal(size=shape), jnp.float32),
        "labels": jnp.asarray(rng.integers(0, CLASSES, args.batch), jnp.int32),
    }
    bases = {"sgd": "dense, momentum", "adamw": "dense, AdamW"}
    work = {name: stepping(model, dense(which), None, batch) for which, name in bases.items()}
    of = {name: "adamw" if name == "step" else "sgd" for name in args.trainers}
    for name, which in of.items():
        training = Training(tuple(layers), STEPS, optax.constant_schedule(1e-3), options(which))
        work[name] = stepping(model, make_trainer(name, training), n, batch)
    times, cores = in_turns(work, args.rounds)
    print(
        f"\n{args.model}, {args.size}x{args.size}, batch {args.batch}, M = {args.m}; s: median "
        f"(quartiles) of {args.rounds} rounds\n"
    )
    rows = [[name, spread(times[name], unit=1, digits=3), "", "", ""] for name in bases.values()]
    rows += [
        [
            name,
            spread(times[name], unit=1, digits=3),
            f"{ratio(times, name, bases[which]):.3f}",
            f"{ratio(cores, name, bases[which]):.3f}",
            str(GOAL),
        ]
        for name, which in of.items()
    ]
    print_table(["step", "s", "over dense", "in core seconds", "goal"], rows)


if __name__ == "__main__":
    main()

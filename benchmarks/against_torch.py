"""Times a dense training step here against PyTorch's, eager, on the same cores in turns.

    python -m benchmarks.against_torch

The ratios of `benchmarks.steps` divide by our dense step; this says what that is worth. Each case
is NETWORK:SIZE:BATCH, images of SIZE by SIZE (for byte_lm: tokens). "XLA's own" is our step without
the compiler options of `core/compiling.py`. Fifteen minutes on two cores.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from domino_jax import models
from domino_jax.core import compiling
from domino_jax.deploy import networks
from domino_jax.run import memory
from domino_jax.train import losses
from domino_jax.train.step import dense_step, init_state

GOAL = 1.0
CASES = "resnet18:64:64 resnet18:96:32 resnet18:224:8 resnet20:32:128 resnet20:8:128 byte_lm:256:16"
CHANNELS = {8: 1}  # digits are gray
CLASSES = 10
RATE, MOMENTUM = 0.01, 0.9


def examples(name: str, size: int, batch: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Draws inputs, labels, and says how many classes there are."""
    rng = np.random.default_rng(0)
    if name == "byte_lm":
        tokens = rng.integers(0, 256, (batch, size))
        return tokens.astype(np.uint8), tokens.astype(np.int32), 256
    inputs = rng.normal(size=(batch, size, size, CHANNELS.get(size, 3)))
    return inputs.astype(np.float32), rng.integers(0, CLASSES, batch).astype(np.int32), CLASSES


def ours(
    name: str, size: int, batch: int, told: Callable[[Any], dict[str, str] | None]
) -> Callable[[], None]:
    """Compiles our dense step of SGD with momentum; `told` gives its compiler options."""
    inputs, labels, classes = examples(name, size, batch)
    example = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    model = models.create(name, example=example, classes=classes, seed=0)
    tx = optax.sgd(RATE, MOMENTUM)
    loss = losses.cross_entropy()
    step = dense_step(model.apply, loss, tx, compiler_options=told(example))
    key = jax.random.key(0)
    state = init_state(model.params, model.stats, tx)
    data = {"inputs": jnp.asarray(inputs), "labels": jnp.asarray(labels)}

    def call() -> None:
        nonlocal state
        state, loss = step(state, None, data, key)
        jax.block_until_ready((state, loss))

    return call


def pytorchs(name: str, size: int, batch: int) -> Callable[[], None]:
    """Makes the same step of the same network in PyTorch, as a user writes it."""
    inputs, labels, classes = examples(name, size, batch)
    images = inputs.ndim == 4
    sizes = {"in_channels": inputs.shape[3]} if images else {"positions": size}
    network = networks.create(name, classes=classes, **sizes).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
    given = torch.tensor(inputs.transpose(0, 3, 1, 2) if images else inputs.astype(np.int64))
    wanted = torch.tensor(labels).long()

    def call() -> None:
        optimizer.zero_grad()
        outputs = network(given)
        loss = torch.nn.functional.cross_entropy(outputs.flatten(0, -2), wanted.flatten())
        loss.backward()
        optimizer.step()

    return call


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", nargs="+", default=CASES.split())
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    memory.keep_freed()  # as the scripts do
    print(machine() + "\n")
    rows = []
    for case in args.cases:
        name, *numbers = case.split(":")
        size, batch = map(int, numbers)
        work = {
            "ours": ours(name, size, batch, compiling.options),
            "XLA's own": ours(name, size, batch, lambda example: None),
            "PyTorch": pytorchs(name, size, batch),
        }
        times, _ = in_turns(work, args.rounds)
        seen = [spread(times[each], unit=1, digits=3) for each in work]
        ratios = [f"{ratio(times, each, 'PyTorch'):.2f}" for each in ("ours", "XLA's own")]
        rows.append([case, *seen, *ratios, str(GOAL)])
    print(f"dense step, s: median (quartiles) of {args.rounds} rounds\n")
    ratios = ["ours / PyTorch", "XLA's own / PyTorch", "goal"]
    print_table(["network:size:batch", *work, *ratios], rows)


if __name__ == "__main__":
    main()

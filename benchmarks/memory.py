"""Measures what saves memory in a step: parts of a batch, rematerialisation, bfloat16.

    python -m benchmarks.memory

The decoder has its blocks under a scan, byte_lm and ResNet-20 have theirs one after another. SR-STE
at 4:16 on one device. 'compiled' is the compiler's own count of temporaries and arguments; 'kept'
is what JAX keeps of one gradient's forward pass besides the weights, on any device: on a CPU XLA
merges what is computed twice, unless a scan holds it apart, and products in bfloat16 are made in
float32. Five minutes on two cores.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from benchmarks.compiling import megabytes
from domino_jax import find_layers, models, n_by_path
from domino_jax.allocate.uniform import uniform
from domino_jax.models.decoder import logits, shapes
from domino_jax.models.decoder_config import read_config
from domino_jax.train import losses
from domino_jax.train.gradients import accumulated
from domino_jax.train.remat import recomputing
from domino_jax.train.step import first_state, trainer_step
from domino_jax.train.trainer import through_trainer
from domino_jax.train.transforms import sr_ste

M = 16
PARTS = 4
DECODER = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


class Case(NamedTuple):
    """A network in a precision, and a batch."""

    model: models.Model
    batch: dict[str, Any]


def decoder(dtype: str | None, small: bool) -> Case:
    """Makes a decoder with its blocks under a scan."""
    config = read_config(DECODER | ({"num_hidden_layers": 2} if small else {}))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.02, leaf.shape), leaf.dtype),
        shapes(config, jnp.float32),
    )
    model = models.plain(lambda p, x: logits(config, p, x, dtype=dtype), params)
    tokens = jnp.asarray(rng.integers(0, 256, (4, 16) if small else (16, 256)), jnp.int32)
    return Case(model, {"inputs": tokens, "labels": tokens})


def of_name(name: str, dtype: str | None, small: bool) -> Case:
    """Makes one of our networks by its name."""
    rng = np.random.default_rng(0)
    shape: tuple[int, ...]
    options: dict[str, Any]
    if name == "byte_lm":
        shape, options = ((4, 16), {"depth": 1}) if small else ((16, 256), {})
        inputs = rng.integers(0, 256, shape).astype(np.uint8)
        labels, classes = inputs.astype(np.int32), 256
    else:
        shape, options = ((4, 8, 8, 3) if small else (128, 32, 32, 3)), {}
        inputs = rng.normal(size=shape).astype(np.float32)
        labels, classes = rng.integers(0, 10, shape[0]).astype(np.int32), 10
    example = jax.ShapeDtypeStruct((1, *shape[1:]), inputs.dtype)
    model = models.create(name, example=example, classes=classes, seed=0, dtype=dtype, **options)
    return Case(model, {"inputs": jnp.asarray(inputs), "labels": jnp.asarray(labels)})


NETWORKS: dict[str, Callable[[str | None, bool], Case]] = {
    "decoder": decoder,
    "byte_lm": partial(of_name, "byte_lm"),
    "resnet20": partial(of_name, "resnet20"),
}
VARIANTS = ("as it is", f"accumulate={PARTS}", "remat", f"remat, accumulate={PARTS}", "bfloat16")


def kept(apply: Any, case: Case, parts: int) -> float:
    """Counts the megabytes that a gradient of a part of the batch keeps besides the weights."""
    batch = jax.tree.map(lambda x: x[: len(x) // parts], case.batch)
    loss = losses.cross_entropy()

    def backward(params: Any) -> Any:
        def objective(params: Any) -> jax.Array:
            key = jax.random.key(0)
            outputs, _ = apply(params, case.model.stats, batch["inputs"], train=True, key=key)
            return loss(outputs, batch)

        return jax.vjp(objective, params)[1]

    weights = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(case.model.params)}
    leaves = jax.tree.leaves(jax.eval_shape(backward, case.model.params))
    found = (leaf for leaf in leaves if (leaf.shape, leaf.dtype) not in weights)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found) / 1e6


def variant(case: Case, name: str) -> tuple[Callable[[], None], list[str]]:
    """Compiles a step; returns what makes it, and its memory."""
    parts = PARTS if f"accumulate={PARTS}" in name else 1
    apply = recomputing(case.model.apply) if "remat" in name else case.model.apply

    def forward(params: Any, inputs: Any) -> Any:
        key = jax.random.key(0)
        return case.model.apply(params, case.model.stats, inputs, train=False, key=key)[0]

    layers = find_layers(forward, case.model.params, case.batch["inputs"][:1], M)
    n = n_by_path(uniform(layers, M // 4), layers)
    trainer = through_trainer(optax.chain(sr_ste(5e-4), optax.sgd(0.01, 0.9)), layers)
    spread_out = partial(accumulated, parts=parts, count=losses.counting())
    options: dict[str, Any] = {"spread": spread_out} if parts > 1 else {}
    step = trainer_step(apply, losses.cross_entropy(), trainer, **options)
    start = trainer.init(jax.tree.map(jnp.array, case.model.params), n)
    held = first_state(start.params, jax.tree.map(jnp.array, case.model.stats), start.state)
    key = jax.random.key(0)
    compiled = step.lower(held, n, case.batch, key).compile()  # type: ignore[attr-defined]

    def call() -> None:
        nonlocal held
        held, loss = compiled(held, n, case.batch, key)
        jax.block_until_ready((held, loss))

    return call, [f"{megabytes(compiled):.1f}", f"{kept(apply, case, parts):.1f}"]


def rows_of(network: str, rounds: int, small: bool) -> list[list[str]]:
    """Measures the variants of a network in turns."""
    cases = {dtype: NETWORKS[network](dtype, small) for dtype in (None, "bfloat16")}
    made = {
        name: variant(cases["bfloat16" if name == "bfloat16" else None], name) for name in VARIANTS
    }
    times, _ = in_turns({name: call for name, (call, _) in made.items()}, rounds)
    return [
        [
            f"{network}, {name}",
            *memory,
            spread(times[name], unit=1, digits=3),
            f"{ratio(times, name, VARIANTS[0]):.2f}",
        ]
        for name, (_, memory) in made.items()
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a run of seconds, for tests")
    args = parser.parse_args()
    print(machine())
    rows = [row for name in args.networks for row in rows_of(name, args.rounds, args.small)]
    print(f"\nSR-STE, M = {M}; MB; s a step: median (quartiles) of {args.rounds} rounds\n")
    print_table(["step", "compiled", "kept", "s", "to the first"], rows)


if __name__ == "__main__":
    main()

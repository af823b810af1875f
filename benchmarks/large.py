"""Compiles the steps of large networks for eight devices, and reads their memory off the programs.

    python -m benchmarks.large

A decoder of 1.1 billion parameters (TinyLlama's sizes; 1,024 positions) and ResNet-50 (224x224,
batch 64) on a mesh of 2 x 4 virtual devices: two parts of a batch, four of every weight. All
shapes are abstract and nothing is allocated. Memory of a device is arguments + temporaries +
outputs - what the outputs share with the donated arguments; a search holds its thresholds too.
Ten minutes on two cores.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.clock import machine, print_table
from benchmarks.compiling import megabytes
from domino_jax import find_layers, n_by_path
from domino_jax.allocate.uniform import uniform
from domino_jax.core.kernels import kernel_weights, kernels
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masks import thresholds
from domino_jax.deploy.resnet_forms import FORMS
from domino_jax.models import Model, from_nnx, plain
from domino_jax.models.decoder import logits, shapes
from domino_jax.models.decoder_config import read_config
from domino_jax.train import losses
from domino_jax.train.mesh import make_mesh
from domino_jax.train.placement import Placement, kept, placement_of, shardings
from domino_jax.train.step import Step, first_state, trainer_step
from domino_jax.train.trainer import Trainer, dense_trainer, search_trainer, through_trainer
from domino_jax.train.transforms import sr_ste, survivor_decay, survivors

FLOAT = 4  # bytes
TINYLLAMA = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
SMALL = TINYLLAMA | {
    **{"vocab_size": 256, "hidden_size": 256, "intermediate_size": 512},
    **{"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4},
}
Shape = jax.ShapeDtypeStruct


class Large(NamedTuple):
    """A network of abstract parameters, and the shapes of a batch."""

    model: Model
    inputs: Shape
    labels: Shape


def decoder(document: dict[str, Any], batch: int, length: int) -> Large:
    """Makes a decoder-only language model."""
    config = read_config(document)
    model = plain(lambda p, x: logits(config, p, x, dtype=None), shapes(config, jnp.float32))
    return Large(model, *(Shape((batch, length), jnp.int32) for _ in range(2)))


def resnet50(batch: int, size: int) -> Large:
    """Makes ResNet-50."""
    from flax import nnx  # noqa: PLC0415 (only where a network of Flax is made)

    from domino_jax.models.resnet import ResNet  # noqa: PLC0415

    model = from_nnx(nnx.eval_shape(lambda: ResNet(FORMS["resnet50"], 3, 1000)))
    images = Shape((batch, size, size, 3), jnp.float32)
    return Large(model, images, Shape((batch,), jnp.int32))


NETWORKS: dict[str, Callable[[], Large]] = {
    "decoder": lambda: decoder(TINYLLAMA, 8, 1024),
    "resnet50": lambda: resnet50(64, 224),
    "small_decoder": lambda: decoder(SMALL, 8, 64),
}


def trainers(layers: tuple[LayerSpec, ...], m: int) -> dict[str, tuple[Trainer, Any]]:
    """Makes the dense trainers, those of search and SR-STE, and their targets."""
    n = n_by_path(uniform(layers, m // 4), layers)
    pace = dict.fromkeys(n, jnp.float32(0.5))
    plain_sgd, decayed = (
        optax.sgd(0.01),
        optax.chain(optax.add_decayed_weights(5e-5), optax.sgd(0.01, 0.9)),
    )
    shrinking = optax.chain(survivors(), survivor_decay(layers, 0.1, every=5), plain_sgd)
    return {
        "dense for search": (dense_trainer(plain_sgd), None),
        "search": (search_trainer(shrinking, layers), {"n": n, "pace": pace}),
        "dense for SR-STE": (dense_trainer(decayed), None),
        "SR-STE": (through_trainer(optax.chain(sr_ste(5e-4), decayed), layers), n),
    }


def compile_step(
    large: Large, trainer: Trainer, target: Any, placement: Placement
) -> tuple[Any, float]:
    """Compiles a step from abstract shapes; returns it and the seconds that it took."""
    apply, loss = large.model.apply, losses.cross_entropy()
    step: Step = trainer_step(apply, loss, trainer, keep=partial(kept, placement))
    state = jax.eval_shape(
        lambda params, stats: first_state(params, stats, trainer.init(params, target).state),
        large.model.params,
        large.model.stats,
    )
    rows = NamedSharding(placement.mesh, PartitionSpec("data"))
    batch = {
        name: Shape(of.shape, of.dtype, sharding=rows)
        for name, of in (("inputs", large.inputs), ("labels", large.labels))
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    began = time.perf_counter()
    placed = _laid(placement, state)
    compiled = step.lower(placed, target, batch, key).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - began


def _laid(placement: Placement, tree: Any) -> Any:
    """Says of abstract arrays where they lie."""
    return jax.tree.map(
        lambda leaf, where: Shape(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings(placement, tree),
    )


def on_device(placement: Placement, tree: Any) -> int:
    """Counts the numbers that one device has of a tree of arrays."""
    wheres = jax.tree.leaves(shardings(placement, tree))
    parts = zip(jax.tree.leaves(tree), wheres, strict=True)
    return sum(math.prod(where.shard_shape(leaf.shape)) for leaf, where in parts)


def thresholds_of(layers: tuple[LayerSpec, ...], params: Any) -> dict[str, Shape]:
    """Describes the thresholds of a search, by path."""
    weights = kernel_weights(params, layers)
    return {
        path: jax.eval_shape(partial(thresholds, m=kernel.m, axes=kernel.axes), weights[path])
        for path, kernel in kernels(layers).items()
    }


def rows_of(name: str, m: int) -> list[list[str]]:
    """Compiles the steps of a network; returns the rows of the table."""
    large = NETWORKS[name]()

    def forward(params: Any, inputs: Any) -> Any:
        stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), large.model.stats)
        return large.model.apply(params, stats, inputs, train=False, key=jax.random.key(0))[0]

    example = Shape((1, *large.inputs.shape[1:]), large.inputs.dtype)
    layers = find_layers(forward, large.model.params, example, m)
    placement = placement_of(make_mesh(2, 4), layers, large.model.params)
    held = {"search": on_device(placement, thresholds_of(layers, large.model.params)) * FLOAT / 1e6}
    weights = on_device(placement, kernel_weights(large.model.params, layers))
    memory, rows = {}, []
    for step, (trainer, target) in trainers(layers, m).items():
        compiled, seconds = compile_step(large, trainer, target, placement)
        memory[step] = megabytes(compiled) + held.get(step, 0.0)
        if step.startswith("dense"):
            continue
        dense = memory[f"dense for {step}"]
        more = memory[step] - dense
        allowed = weights * (4 / m + 1 + FLOAT) / 1e6
        row = [f"{name}, {step}", f"{weights:,}", f"{dense:.0f}", f"{memory[step]:.0f}"]
        row += [f"{more:.0f}", f"{allowed:.0f}", f"{more * 1e6 / weights:.2f}", f"{seconds:.0f}"]
        rows.append(row)
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["decoder", "resnet50"])
    parser.add_argument("--m", type=int, default=16)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    print(machine())
    rows = []
    for name in args.networks:
        params = jax.tree.leaves(NETWORKS[name]().model.params)
        print(f"{name}: {sum(math.prod(leaf.shape) for leaf in params):,} parameters")
        rows += rows_of(name, args.m)
    print(f"\npeak memory of one of 8 devices (2 x 4), MB, M = {args.m}; s: compiling the step\n")
    header = ["step", "grouped weights of a device", "dense", "sparse", "more", "goal: at most"]
    print_table([*header, "bytes per weight", "s"], rows)


if __name__ == "__main__":
    main()

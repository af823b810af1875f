"""Compiles for a TPU that is not there, and prints what its own compiler says of the programs.

    pip install --no-deps --target=/tmp/tpu 'libtpu==0.0.42.*'
    JAX_PLATFORMS=cpu PYTHONPATH=/tmp/tpu:. python -m benchmarks.tpu

libtpu (jax[tpu] names the version: this one is for jax 0.10.2) has the compiler of TPUs, which
needs none to run. Compiled are, for TPU v5e:

- the steps of training on one device: bytes that go to and from memory, and memory at its peak.
  The steps of a network with batch norm are bound by these bytes;
- those on 2 x 4 devices: memory, and collectives by kind;
- what the allocators gather of a language model with weights of bfloat16, one window at a time
  (remat, as configs/causal_lm.py): memory, in bytes of the weights.

All shapes are abstract. ResNet-50 takes four minutes a step on one core; the decoder alone:
--networks decoder.
"""

import argparse
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.clock import machine, print_table
from benchmarks.compiling import megabytes
from benchmarks.large import SMALL, TINYLLAMA, Large, compile_step, decoder, resnet50, trainers
from domino_jax import find_layers
from domino_jax.allocate.fisher import Gradients, adding, by_rank
from domino_jax.core.kernels import kernel_weights
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.models.decoder import shapes
from domino_jax.models.decoder_config import read_config
from domino_jax.trace.adding import tapper
from domino_jax.train.criteria import find_criterion
from domino_jax.train.losses import mean_loss
from domino_jax.train.placement import placement_of
from domino_jax.train.remat import recomputing

# libtpu asks for these where it finds no TPU.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock is of a device
}
TOPOLOGY = "v5e:2x4"
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
DENSE = ((r"embed_tokens|lm_head", "dense"),)
NETWORKS = {
    "resnet50": lambda: resnet50(256, 224),
    "decoder": lambda: decoder(TINYLLAMA, 8, 1024),
    "small_decoder": lambda: decoder(SMALL, 8, 64),
}
MESHES = {"resnet50": (1, 1), "decoder": (2, 4), "small_decoder": (2, 4)}
MODELS = {"decoder": (TINYLLAMA, 512), "small_decoder": (SMALL, 64)}  # and tokens of a window


def mesh_of(data: int, model: int) -> Mesh:
    """Makes a mesh of some devices that are not there."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    return Mesh(np.array(devices[: data * model]).reshape(data, model), ("data", "model"))


def layers_of(large: Large, m: int, rules: Any = ()) -> tuple[LayerSpec, ...]:
    """Finds the layers of a network."""

    def forward(params: Any, inputs: Any) -> Any:
        stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), large.model.stats)
        return large.model.apply(params, stats, inputs, train=False, key=jax.random.key(0))[0]

    example = jax.ShapeDtypeStruct((1, *large.inputs.shape[1:]), large.inputs.dtype)
    return find_layers(forward, large.model.params, example, m, rules)


def collectives(compiled: Any) -> str:
    """Counts the collectives of a program, by kind."""
    found = re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", compiled.as_text())
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(found).items())) or "none"


def steps(name: str, m: int) -> Iterator[list[str]]:
    """Compiles the steps of a network; yields the rows of the table."""
    large, (data, model) = NETWORKS[name](), MESHES[name]
    layers = layers_of(large, m)
    placement = placement_of(mesh_of(data, model), layers, large.model.params)
    dense: dict[str, tuple[float, float]] = {}
    for step, (trainer, target) in trainers(layers, m).items():
        control = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), target)
        compiled, seconds = compile_step(large, trainer, control, placement)
        moved, peak = compiled.cost_analysis()["bytes accessed"] / 1e9, megabytes(compiled)
        base = dense.setdefault(step.removeprefix("dense for "), (moved, peak))
        row = [f"{name} on {data} x {model}, {step}", f"{moved:.1f}", f"{moved / base[0]:.4f}"]
        row += [f"{peak:.0f}", f"{peak / base[1]:.3f}", collectives(compiled), f"{seconds:.0f}"]
        yield row


def gathering(name: str, m: int) -> Iterator[list[str]]:
    """Compiles what the allocators gather; yields the rows of the table."""
    document, length = MODELS[name]
    placed = NamedSharding(mesh_of(1, 1), PartitionSpec())

    def place(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), tree)

    config, large = read_config(document), decoder(document, 1, length)
    params = place(shapes(config, jnp.bfloat16))
    layers = layers_of(large, m, DENSE)
    batch = place({"inputs": large.inputs, "labels": large.labels})
    apply, criterion = recomputing(large.model.apply), mean_loss(find_criterion("next_token"))

    def loss(params: Any, batch: Any) -> jax.Array:
        outputs, _ = apply(params, {}, batch["inputs"], train=False, key=jax.random.key(0))
        return criterion(outputs, batch)

    bytes_of_weights = 2 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))

    def row(what: str, lowered: Any, h: int) -> list[str]:
        peak = megabytes(lowered.compile()) * 1e6
        cells = [f"{name}, {what}", f"{bytes_of_weights / 1e6:.0f}", f"{h / 1e6:.0f}"]
        return [*cells, f"{peak / 1e6:.0f}", f"{(peak - h) / bytes_of_weights:.2f}"]

    made_of = by_rank(layers)
    add = jax.jit(adding(Gradients(layers, loss, 1, 1), made_of), static_argnums=4)
    own = kernel_weights(params, layers)
    gradients = {path: jax.ShapeDtypeStruct((1, *w.shape), w.dtype) for path, w in own.items()}
    sums = place(jax.eval_shape(made_of, params, {}, gradients))
    yield row("fisher", add.lower(sums, params, {}, batch, 1), 0)
    ready = tapper(loss, params, batch, grouped(layers))
    add_taps = jax.jit(ready.add, donate_argnums=0)
    for what, products in (("kdiag", False), ("kronecker", True)):
        taps = {path: jax.eval_shape(partial(ready.zeros, path, False, products)) for path in own}
        h = sum(sums.products.size * 4 for sums in taps.values() if sums.products is not None)
        yield row(what, add_taps.lower(place(taps), params, batch, None), h)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["decoder", "resnet50"], choices=MESHES)
    parser.add_argument("--m", type=int, default=16)
    args = parser.parse_args()
    os.environ.update(WITHOUT_TPU)
    print(f"{machine()}\ncompiled for TPU {TOPOLOGY}, M = {args.m}")
    of_models = [row for name in args.networks if name in MODELS for row in gathering(name, args.m)]
    if of_models:
        print("\nallocators of a language model, MB; to the weights: of the peak without H\n")
        print_table(["what is gathered", "weights", "H", "peak", "to the weights"], of_models)
    print("\nsteps of training\n")
    header = ["step", "GB moved", "to dense", "peak MB", "to dense", "collectives", "s to compile"]
    print_table(header, [row for name in args.networks for row in steps(name, args.m)])


if __name__ == "__main__":
    main()

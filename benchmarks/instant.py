"""Times the search without data on networks of many weights, and reads the memory of the process.

    python -m benchmarks.instant

ResNet-50 at the budget of configs/resnet50_params_3200k.py, every N of 16, in half a minute on two
cores; `--networks=decoder`: the blocks of a decoder with 1.1 billion parameters, half of them kept.
Weights are random, in the shapes and scales of a fresh network.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.clock import machine, print_table
from benchmarks.large import NETWORKS, Large
from domino_jax import find_layers, total_cost
from domino_jax.allocate.problem import Problem, Weights
from domino_jax.allocate.table import allocate
from domino_jax.core.costs import budget_of
from domino_jax.core.layers import grouped
from domino_jax.run import config_file

GOAL = 20.0  # seconds for ResNet-50, on two cores
CONFIGS = {"resnet50": "configs/resnet50_params_3200k.py"}
DENSE_RULES = ((r"embed_tokens|lm_head", "dense"),)


def filled(shapes: Any) -> Any:
    """Makes weights of these shapes, normal, of standard deviation 1 / sqrt(inputs)."""
    rng = np.random.default_rng(0)

    def fill(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        inputs = max(int(np.prod(shape.shape[:-1])), 1)
        made = rng.standard_normal(shape.shape, np.float32)
        made *= inputs**-0.5
        return made

    return jax.tree.map(fill, shapes)


def measured(name: str, large: Large) -> list[str]:
    """Searches once; returns a row of the table."""
    config = config_file.load(CONFIGS.get(name, "configs/causal_lm.py"))
    is_movable, stats = name != "resnet50", filled(large.model.stats)

    def forward(params: Any, inputs: Any) -> Any:
        return large.model.apply(params, stats, inputs, train=False, key=None)[0]

    example = jax.ShapeDtypeStruct((1, *large.inputs.shape[1:]), large.inputs.dtype)
    rules = DENSE_RULES if is_movable else ()
    layers = find_layers(forward, large.model.params, example, 16, rules)
    budget = budget_of(layers, config.search.budget, movable=is_movable)
    params = filled(large.model.params)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    options = dict(config.search.items()) | {"method": "instant", "candidates": "every"}
    weights: Callable[[], Weights] = lambda: Weights(params, {})  # noqa: E731 (as Problem has it)
    began = time.perf_counter()
    scheme = allocate("instant", Problem(layers, budget, options=options, weights=weights))
    seconds = time.perf_counter() - began
    if not isinstance(scheme, dict):
        raise TypeError("instant: expected a scheme")
    share = float(total_cost(layers, budget.cost, scheme) / total_cost(layers, budget.cost))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = sum(layer.size for layer in grouped(layers))
    goal = f"{GOAL:g}" if name == "resnet50" else ""
    return [
        name,
        f"{count:,}",
        f"{share:.4f}",
        f"{seconds:.1f}",
        goal,
        f"{before:.1f}",
        f"{after:.1f}",
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=["resnet50"])
    args = parser.parse_args()
    print(machine(), "\n")
    rows = [measured(name, NETWORKS[name]()) for name in args.networks]
    header = [
        "network",
        "grouped weights",
        "cost kept",
        "s",
        "goal",
        "GB with weights",
        "GB at most",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    main()

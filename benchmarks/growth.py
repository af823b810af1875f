"""Times mask and vote from 10 to 400 million weights: does the time grow as the weights do?

    python -m benchmarks.growth --plot=benchmarks/growth.png

One kernel (in, 4096) in float32, at a quarter of M = 8 and 16. The exponent is the slope of log
time over log weights (least squares over the medians); goal: 0.95 to 1.05. Needs 4 GB of memory and
two minutes on two cores.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.clock import in_turns, machine, print_table, spread
from domino_jax.core.canonical import Axes
from domino_jax.core.masks import count_short, thresholds, top_n
from domino_jax.run import memory

OUTPUTS = 4096
IO = Axes((), (), (0,), (1,))
MILLIONS = (10, 25, 63, 158, 400)
SIZES = (8, 16)


def work(w: jax.Array, m: int) -> dict[str, Callable[[], object]]:
    """Makes the compiled mask and vote of a kernel."""
    n = jnp.int32(m // 4)
    threshold = jax.jit(partial(thresholds, m=m, axes=IO))(w)
    mask = jax.jit(partial(top_n, m=m, axes=IO))
    vote = jax.jit(partial(count_short, m=m, axes=IO))
    return {
        f"mask, M = {m}": lambda: mask(w, n).block_until_ready(),
        f"vote, M = {m}": lambda: vote(w, n, threshold).block_until_ready(),
    }


def measure(
    millions: Sequence[float], rounds: int
) -> tuple[list[int], dict[str, list[np.ndarray]]]:
    """Returns the numbers of weights, and the seconds of each round by name, one row a number."""
    weights: list[int] = []
    found: dict[str, list[np.ndarray]] = {}
    for size in millions:
        rows = max(round(size * 1e6 / OUTPUTS / 16), 1) * 16
        w = jax.random.normal(jax.random.key(0), (rows, OUTPUTS))
        weights.append(w.size)
        for m in SIZES:
            times, _ = in_turns(work(w, m), rounds)
            for name, seconds in times.items():
                found.setdefault(name, []).append(seconds)
    return weights, found


def exponent(weights: Sequence[int], times: Sequence[np.ndarray]) -> float:
    """Returns the slope of log median over log weights."""
    return float(np.polyfit(np.log(weights), np.log([np.median(t) for t in times]), 1)[0])


def plot(path: Path, weights: Sequence[int], found: dict[str, list[np.ndarray]]) -> None:
    """Draws the medians and quartiles, both axes logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415 (half a second)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, times in found.items():
        low, middle, high = np.percentile(np.array(times), (25, 50, 75), axis=1) * 1e3
        label = f"{name}: exponent {exponent(weights, times):.2f}"
        axes.errorbar(weights, middle, (middle - low, high - middle), marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="ms")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Prints the table, and draws it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--millions", type=float, nargs="+", default=list(MILLIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    memory.keep_freed()  # as the scripts do
    print(machine())
    weights, found = measure(args.millions, args.rounds)
    print(f"\nms: median (quartiles) of {args.rounds} rounds; goal of the exponent: 0.95 to 1.05\n")
    print_table(
        ["", *(f"{number:,}" for number in weights), "exponent"],
        [
            [name, *(spread(t, digits=2) for t in times), f"{exponent(weights, times):.3f}"]
            for name, times in found.items()
        ],
    )
    if args.plot:
        plot(args.plot, weights, found)


if __name__ == "__main__":
    main()

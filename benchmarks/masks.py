"""Times the mask of 25 million float32 weights against copying them and against PyTorch's sort.

    python -m benchmarks.masks

Copy, mask and masked copy write into existing buffers, as the donated ones of a training step are.
The published way (argsort of |w| in groups, then scatter of zeros; its weights already grouped)
is timed too where PyTorch is installed: `pip install torch==2.13.0`. Two minutes on two cores.
"""

import argparse
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.clock import in_turns, machine, print_table, ratio, spread
from domino_jax.core.canonical import Axes
from domino_jax.core.masks import top_n

HWIO = Axes((), (0, 1), (2,), (3,))
IO = Axes((), (), (0,), (1,))
OI = Axes((), (), (1,), (0,))
OIHW = Axes((), (2, 3), (1,), (0,))
Kernel = tuple[str, tuple[int, ...], Axes]
MAIN: Kernel = ("3x3 convolution", (3, 3, 1024, 2720), HWIO)
OTHERS: tuple[Kernel, ...] = (
    ("3x3 convolution to 64", (3, 3, 43_392, 64), HWIO),
    ("dense (in, out)", (5120, 4880), IO),
    ("dense to 64", (390_656, 64), IO),
    ("dense to 10", (2_500_096, 10), IO),
    ("dense (out, in)", (4880, 5120), OI),
    ("3x3 convolution (out, in, 3, 3)", (2720, 1024, 3, 3), OIHW),
)
GOALS = {4: 1.0, 8: 1.0, 16: 2.5}

Mask = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def reusing(
    function: Mask, w: jax.Array, n: jax.Array, dtype: jax.typing.DTypeLike
) -> Callable[[], jax.Array]:
    """Compiles function(w, n, old) and calls it again and again on what it returned last."""
    held = jnp.zeros(w.shape, dtype)
    compiled = jax.jit(function, donate_argnums=2, keep_unused=True).lower(w, n, held).compile()

    def call() -> jax.Array:
        nonlocal held
        held = compiled(w, n, held).block_until_ready()
        return held

    return call


def in_jax(w: jax.Array, n: int, m: int, axes: Axes) -> dict[str, Callable[[], jax.Array]]:
    """Makes the copy, the mask and the masked copy of a kernel."""

    def copy(w: jax.Array, n: jax.Array, old: jax.Array) -> jax.Array:
        del n
        return old.at[:].set(w)

    def mask(w: jax.Array, n: jax.Array, old: jax.Array) -> jax.Array:
        del old
        return top_n(w, n, m, axes)

    def masked(w: jax.Array, n: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(mask(w, n, old), w, jnp.zeros_like(w))

    kept = jnp.int32(n)
    return {
        "copy": reusing(copy, w, kept, w.dtype),
        "mask": reusing(mask, w, kept, bool),
        "masked": reusing(masked, w, kept, w.dtype),
    }


def in_torch(w: jax.Array, n: int, m: int) -> dict[str, Callable[[], object]]:
    """Makes the mask of the same number of weights as the published code does; {} without torch."""
    try:
        import torch  # noqa: PLC0415 (only where it is installed)
    except ImportError:
        return {}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    grouped = torch.from_numpy(np.array(w).reshape(-1, m))

    def mask() -> object:
        smallest = torch.argsort(grouped.abs(), dim=1)[:, : m - n]
        return torch.ones(grouped.shape).scatter_(dim=1, index=smallest, value=0)

    return {"torch": mask}


def smaller(shape: tuple[int, ...], axes: Axes, shrink: int) -> tuple[int, ...]:
    """Divides the inputs of a kernel, rounded up to a multiple of every M."""
    (inputs,) = axes.inputs
    size = -(-shape[inputs] // shrink // 64) * 64
    return tuple(size if axis == inputs else old for axis, old in enumerate(shape))


def against_copy(rounds: int, shrink: int) -> None:
    """Prints the table of the goals."""
    _, shape, axes = MAIN
    shape = smaller(shape, axes, shrink)
    w = jax.random.normal(jax.random.key(0), shape)
    rows = []
    for m in (4, 8, 16, 32, 64):
        times, cores = in_turns(in_jax(w, m // 4, m, axes), rounds)
        slow = in_turns(torch_mask, 3)[0] if (torch_mask := in_torch(w, m // 4, m)) else {}
        torch_ms, faster = "-", "-"
        if slow:
            torch_ms = spread(slow["torch"], digits=0)
            faster = f"{np.median(slow['torch']) / np.median(times['mask']):.0f}"
        rows.append(
            [
                f"{m // 4}:{m}",
                spread(times["copy"]),
                spread(times["mask"]),
                f"{ratio(times, 'mask', 'copy'):.2f}",
                f"{ratio(cores, 'mask', 'copy'):.2f}",
                str(GOALS.get(m, "-")),
                f"{ratio(times, 'masked', 'copy'):.2f}",
                torch_ms,
                faster,
            ]
        )
    print(f"\n{w.size:,} weights {shape}; ms: median (quartiles) of {rounds} rounds\n")
    print_table(
        [
            *("N:M", "copy", "mask", "mask / copy", "in core seconds", "goal"),
            *("masked copy / copy", "PyTorch", "PyTorch / mask (goal 10)"),
        ],
        rows,
    )


def by_layout(rounds: int, shrink: int) -> None:
    """Prints the time of the mask in other layouts."""
    rows = []
    for name, shape, axes in (MAIN, *OTHERS):
        w = jax.random.normal(jax.random.key(0), smaller(shape, axes, shrink))
        cells = []
        for m in (4, 8, 16, 32):
            times, _ = in_turns(in_jax(w, m // 4, m, axes), rounds)
            cells.append(f"{ratio(times, 'mask', 'copy'):.1f}")
        rows.append([name, str(w.shape), *cells])
    print("\nmask / copy in other layouts\n")
    print_table(["kernel", "shape", "M = 4", "8", "16", "32"], rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--shrink", type=int, default=1, help="one weight of so many")
    options = parser.parse_args()
    rounds, shrink = options.rounds, options.shrink
    print(machine())
    if not in_torch(jnp.zeros(4), 1, 4):
        print("PyTorch is not installed: pip install torch==2.13.0")
    against_copy(rounds, shrink)
    by_layout(max(3, rounds // 3), shrink)


if __name__ == "__main__":
    main()

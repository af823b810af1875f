"""What the compiler is told, so that programs are faster on CPUs.

XLA of jaxlib 0.10.2 gives convolutions on CPU to YNNPACK. It takes longer for them than Eigen: 46
and 15 ms for the gradient of a 3x3 kernel of 64 channels on images of 8x56x56 (two cores), 12 and 9
for the convolution itself. `benchmarks/against_torch.py` measures whole steps.
"""

from functools import cache
from typing import Any

import jax

LARGE = 32 * 32  # pixels; at 8x8 a step takes no less
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_NO_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def options(example: Any) -> dict[str, str] | None:
    """Returns `compiler_options` of `jax.jit` for a program over large images.

    Args:
        example: one input, with its shape: [1, rows, columns, channels] is an image.

    Returns:
        None for other inputs and small images, where another backend than that of CPUs is the
        default, and where XLA does not know the options, which it calls experimental.
    """
    shape: tuple[int, ...] = getattr(example, "shape", ())
    if len(shape) != 4 or shape[1] * shape[2] < LARGE or jax.default_backend() != "cpu":
        return None
    return _without_ynnpack()


@cache
def _without_ynnpack() -> dict[str, str] | None:
    wanted = {_YNNPACK: _NO_CONVOLUTIONS}
    try:
        jax.jit(lambda: 0, compiler_options=wanted).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return wanted

"""What the compiler is told, so that programs are faster on CPUs.

XLA gives convolutions on CPU to YNNPACK since jaxlib 0.10. It takes longer for them than Eigen,
which had them before: 46 and 15 ms for the gradient of a 3x3 kernel of 64 channels on images of
8x56x56 (two cores), 12 and 9 for the convolution itself. `benchmarks/against_torch.py` measures a
whole step.
"""

from functools import cache

import jax

_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_NO_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


@cache
def options() -> dict[str, str] | None:
    """Returns `compiler_options` of `jax.jit` for a program that holds convolutions.

    Returns:
        None where another backend than that of CPUs is the default, and where XLA does not know
        the options, which it calls experimental.
    """
    wanted = {_YNNPACK: _NO_CONVOLUTIONS}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=wanted).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return wanted

"""The linear layer of all our networks."""

from typing import Any

from flax import nnx


def linear(inputs: int, outputs: int, *, bias: bool = True, dtype: Any) -> nnx.Linear:
    """Makes a linear layer, all zero.

    Args:
        inputs: channels.
        outputs: channels.
        bias: it has one.
        dtype: of the computation.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.zeros,
        rngs=nnx.Rngs(0),
    )

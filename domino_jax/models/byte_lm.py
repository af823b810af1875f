"""A small decoder-only language model of bytes: pre-norm blocks, causal attention.

Query, key and value have a kernel each, and so an N:M each: a search can find that queries and keys
need fewer weights than values do, which one packed kernel would hide. Every kernel is a matrix
(inputs, outputs). Letters: B examples, T positions, C channels (the width).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core.errors import InputError
from domino_jax.models import Model, from_nnx
from domino_jax.models.attention import attend
from domino_jax.models.gelu import gelu
from domino_jax.models.initial import fill, normal, zeros
from domino_jax.models.layer_norm import LayerNorm
from domino_jax.models.linear import linear
from domino_jax.models.options import only_array, require_dtype, require_positive

EPSILON = 1e-5
STD = 0.02  # GPT-2 (Radford et al. 2019)


class Attention(nnx.Module):
    """Causal self-attention with biases."""

    def __init__(self, width: int, heads: int, *, dtype: Any) -> None:
        self.query = linear(width, width, dtype=dtype)
        self.key = linear(width, width, dtype=dtype)
        self.value = linear(width, width, dtype=dtype)
        self.out = linear(width, width, dtype=dtype)
        self.heads = heads

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, T, C]."""
        parts = self.query(inputs), self.key(inputs), self.value(inputs)
        return self.out(attend(*parts, heads=self.heads, causal=True))


class Mlp(nnx.Module):
    """Two linear layers, four times as wide between them, with an exact GELU."""

    def __init__(self, width: int, *, dtype: Any) -> None:
        self.up = linear(width, 4 * width, dtype=dtype)
        self.down = linear(4 * width, width, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, T, C]."""
        return self.down(gelu(self.up(inputs)))


class Block(nnx.Module):
    """Attention and MLP, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int, *, dtype: Any) -> None:
        self.norm1 = LayerNorm(width, epsilon=EPSILON)
        self.attention = Attention(width, heads, dtype=dtype)
        self.norm2 = LayerNorm(width, epsilon=EPSILON)
        self.mlp = Mlp(width, dtype=dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, T, C]."""
        x = inputs + self.attention(self.norm1(inputs))
        return x + self.mlp(self.norm2(x))


class Table(nnx.Module):
    """One vector for each byte, or for each position."""

    def __init__(self, entries: int, width: int) -> None:
        self.embedding = nnx.Param(jnp.zeros((entries, width), jnp.float32))


class ByteLM(nnx.Module):
    """Tables of bytes and positions, blocks, a norm and a head of its own."""

    def __init__(
        self, classes: int, length: int, *, width: int, depth: int, heads: int, dtype: Any = None
    ) -> None:
        self.tokens = Table(classes, width)
        self.positions = Table(length, width)
        self.blocks = nnx.List([Block(width, heads, dtype=dtype) for _ in range(depth)])
        self.norm = LayerNorm(width, epsilon=EPSILON)
        self.head = linear(width, classes, dtype=dtype, bias=False)
        self.dtype = dtype

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps bytes [B, T] to the logits [B, T, classes] of the next ones.

        The logits have the dtype of the parameters; those of a byte that has no entry are NaN.

        Raises:
            InputError: more positions than the network has.
        """
        tokens, positions = self.tokens.embedding[...], self.positions.embedding[...]
        length = inputs.shape[1]
        if length > len(positions):
            raise InputError(f"byte_lm: expected at most {len(positions)} positions, got {length}")
        x = jnp.take(tokens, inputs, axis=0, mode="fill", fill_value=jnp.nan)
        x = x + positions[None, :length]
        x = x.astype(self.dtype or x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).astype(tokens.dtype)


def byte_lm(
    *,
    example: Any,
    classes: int,
    seed: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dtype: str | None = None,
) -> Model:
    """Makes a byte language model with float32 weights; see `domino_jax.models.create`.

    Weights are normal with standard deviation 0.02, those of the two kernels that write to a
    block's sum divided by √(2 · depth), as in GPT-2; biases are 0.

    Args:
        example: one integer array of bytes, [1, T]: gives the number of positions.
        classes: different bytes, in the inputs as in the outputs.
        seed: of the weights.
        width: channels, a multiple of the heads.
        depth: number of blocks.
        heads: of each attention.
        dtype: of the computation: 'float32' or 'bfloat16' (norms, softmax and logits stay float32);
            None: that of the parameters.

    Raises:
        InputError: an option has another value, or the example is not one array of bytes.
    """
    require_dtype(dtype)
    require_positive(classes=classes, width=width, depth=depth, heads=heads)
    if width % heads:
        raise InputError(f"width must be a multiple of the {heads} heads, got {width}")
    length = _length(example)
    module = nnx.eval_shape(
        lambda: ByteLM(classes, length, width=width, depth=depth, heads=heads, dtype=dtype)
    )
    model = from_nnx(module)
    draws = (
        (r"(attention/out|mlp/down)/kernel$", normal(STD / math.sqrt(2 * depth))),
        (r"(kernel|embedding)$", normal(STD)),
        (r"/bias$", zeros),
    )
    return Model(model.apply, fill(model.params, seed, draws), model.stats)


def _length(example: Any) -> int:
    """Returns T of one array of bytes [1, T]."""
    expected = "a byte language model takes one integer array (1, positions)"
    array = only_array(example, 2, expected)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{expected}, got {array.dtype}")
    require_positive(positions=array.shape[1])
    return array.shape[1]

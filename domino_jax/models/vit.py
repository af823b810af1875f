"""Vision transformers as torchvision has them: Ti, S and B (Dosovitskiy et al. 2021, Touvron 2021).

Sub-modules have the names of torchvision's `VisionTransformer`, so a path is
`encoder/layers/encoder_layer_0/mlp/0/kernel`. Query, key and value are one leaf, `in_proj_kernel`
(inputs, 3 · outputs), PyTorch's packed `in_proj_weight` transposed: one layer with one N:M.
Letters: B examples, H, W image rows and columns, T positions (the class token's is the first), C
channels.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from domino_jax.core.errors import InputError
from domino_jax.models import Model, from_nnx
from domino_jax.models.attention import attend
from domino_jax.models.gelu import gelu
from domino_jax.models.initial import fill, normal, xavier_uniform, zeros
from domino_jax.models.layer_norm import LayerNorm
from domino_jax.models.linear import linear
from domino_jax.models.options import only_array, require_dtype, require_positive

EPSILON = 1e-6


@dataclass(frozen=True)
class Form:
    """What distinguishes one vision transformer from another.

    Attributes:
        width: channels, a multiple of the heads; the MLPs are four times as wide inside.
        depth: number of layers.
        heads: of each attention.
    """

    width: int
    depth: int
    heads: int


class SelfAttention(nnx.Module):
    """Self-attention with one packed kernel for query, key and value."""

    def __init__(self, width: int, heads: int, *, dtype: Any) -> None:
        self.in_proj_kernel = nnx.Param(jnp.zeros((width, 3 * width), jnp.float32))
        self.in_proj_bias = nnx.Param(jnp.zeros((3 * width,), jnp.float32))
        self.out_proj = linear(width, width, dtype=dtype)
        self.heads = heads

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, T, C]."""
        kernel, bias = (
            leaf[...].astype(inputs.dtype) for leaf in (self.in_proj_kernel, self.in_proj_bias)
        )
        parts = jnp.split(inputs @ kernel + bias[None, None], 3, axis=-1)
        return self.out_proj(attend(*parts, heads=self.heads, causal=False))


class EncoderLayer(nnx.Module):
    """Attention and MLP, each after a norm and added to what came in."""

    def __init__(self, form: Form, *, dtype: Any) -> None:
        self.ln_1 = LayerNorm(form.width, epsilon=EPSILON)
        self.self_attention = SelfAttention(form.width, form.heads, dtype=dtype)
        self.ln_2 = LayerNorm(form.width, epsilon=EPSILON)
        # Activation and dropout stand between them in torchvision.
        first, last = (
            linear(form.width, 4 * form.width, dtype=dtype),
            linear(4 * form.width, form.width, dtype=dtype),
        )
        self.mlp = nnx.Dict({"0": first, "3": last})

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, T, C]."""
        x = inputs + self.self_attention(self.ln_1(inputs))
        hidden = gelu(self.mlp["0"](self.ln_2(x)))
        return x + self.mlp["3"](hidden)


class Encoder(nnx.Module):
    """Positions, layers and the last norm."""

    def __init__(self, form: Form, length: int, *, dtype: Any) -> None:
        self.pos_embedding = nnx.Param(jnp.zeros((1, length, form.width), jnp.float32))
        self.layers = nnx.Dict(
            {f"encoder_layer_{i}": EncoderLayer(form, dtype=dtype) for i in range(form.depth)}
        )
        self.ln = LayerNorm(form.width, epsilon=EPSILON)
        self.depth = form.depth

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, T, C] to the first position's [B, C].

        Raises:
            InputError: another number of positions than the network has.
        """
        positions = self.pos_embedding[...].astype(inputs.dtype)
        if inputs.shape[1] != positions.shape[1]:
            raise InputError(
                f"vision transformer: expected images of {positions.shape[1] - 1} patches, got "
                f"{inputs.shape[1] - 1}"
            )
        x = inputs + jnp.broadcast_to(positions, inputs.shape)
        for index in range(self.depth):
            x = self.layers[f"encoder_layer_{index}"](x)
        return self.ln(x[:, 0])


class VisionTransformer(nnx.Module):
    """Patches of the image and a class token, encoder, head."""

    def __init__(
        self,
        form: Form,
        image: tuple[int, int, int],
        classes: int,
        *,
        patch: int,
        dtype: Any = None,
    ) -> None:
        rows, columns, channels = image
        self.conv_proj = nnx.Conv(
            channels,
            form.width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            dtype=dtype,
            kernel_init=nnx.initializers.zeros,
            rngs=nnx.Rngs(0),
        )
        self.class_token = nnx.Param(jnp.zeros((1, 1, form.width), jnp.float32))
        length = (rows // patch) * (columns // patch) + 1
        self.encoder = Encoder(form, length, dtype=dtype)
        self.heads = nnx.Dict({"head": linear(form.width, classes, dtype=dtype)})

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes] in the dtype of the parameters."""
        x = self.conv_proj(inputs)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        token = self.class_token[...]
        first = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, width))
        x = self.encoder(jnp.concatenate([first, x], axis=1))
        return self.heads["head"](x).astype(token.dtype)


def _create(
    form: Form,
    *,
    example: Any,
    classes: int,
    seed: int,
    dtype: str | None = None,
    patch: int = 16,
) -> Model:
    """Makes a vision transformer with float32 weights; see `domino_jax.models.create`.

    Fresh weights have torchvision's distributions; the head is 0.

    Args:
        form: the network.
        example: one array of images, [1, H, W, C], H and W multiples of the patch: gives the
            positions and the number of channels.
        classes: number of logits.
        seed: of the weights.
        dtype: of the computation: 'float32' or 'bfloat16' (norms, softmax and logits stay float32);
            None: that of params and inputs, which then must agree.
        patch: rows and columns of a patch.

    Raises:
        InputError: an option has another value, or the example is not one array of such images.
    """
    require_dtype(dtype)
    require_positive(classes=classes, patch=patch)
    image = _image(example, patch)
    module = nnx.eval_shape(
        lambda: VisionTransformer(form, image, classes, patch=patch, dtype=dtype)
    )
    model = from_nnx(module)
    fan_in = image[2] * patch**2
    draws = (
        (r"conv_proj/kernel$", normal(math.sqrt(1 / fan_in))),
        (r"pos_embedding$", normal(0.02)),
        (r"(in_proj_kernel|mlp/\d/kernel)$", xavier_uniform),
        (r"mlp/\d/bias$", normal(1e-6)),
        (r"(^heads/head/.*|_proj/bias|in_proj_bias)$", zeros),
    )
    return Model(model.apply, fill(model.params, seed, draws), model.stats)


def _image(example: Any, patch: int) -> tuple[int, int, int]:
    """Returns (H, W, C) of one array of images [1, H, W, C]."""
    expected = (
        "a vision transformer takes one array of images (1, rows, columns, channels), rows and "
        f"columns multiples of its patch {patch}"
    )
    shape = only_array(example, 4, expected).shape
    if min(shape[1:3]) < patch or shape[1] % patch or shape[2] % patch:
        raise InputError(f"{expected}, got {tuple(shape)}")
    return shape[1], shape[2], shape[3]


vit_ti16 = partial(_create, Form(192, 12, 3))
vit_s16 = partial(_create, Form(384, 12, 6))
vit_b16 = partial(_create, Form(768, 12, 12))

"""A decoder-only language model: `llama`, `mistral`, `qwen2`, `qwen3` and `gemma2` are forms of it.

The parameters are nested dicts with the module names of Hugging Face. Those of all blocks are
stacked, and one block is scanned over them: compilation does not take longer for more blocks, and
each slice of a kernel is a layer with its own N:M. Every kernel is [L, inputs, outputs].

Letters: B examples, T positions, C channels, V tokens, L blocks, H heads, G of keys and values,
R = H / G heads of queries to each, D channels of a head.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.core.errors import InputError
from domino_jax.models.decoder_config import DecoderConfig
from domino_jax.models.rotary import angles, rotate

Tree = Mapping[str, Any]
_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def shapes(config: DecoderConfig, dtype: Any) -> dict[str, Any]:
    """Describes the parameters: nested dicts of `jax.ShapeDtypeStruct`."""

    def of(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def linear(inputs: int, outputs: int, bias: bool) -> dict[str, Any]:
        kernel = {"kernel": of(config.depth, inputs, outputs)}
        return kernel | ({"bias": of(config.depth, outputs)} if bias else {})

    def scale(size: int) -> dict[str, Any]:
        return {"scale": of(config.depth, size)}

    width, hidden, size = config.width, config.hidden, config.head_size
    queries, keys = config.heads * size, config.groups * size
    biases = config.biases
    attention = {
        "q_proj": linear(width, queries, biases["query"]),
        "k_proj": linear(width, keys, biases["query"]),
        "v_proj": linear(width, keys, biases["query"]),
        "o_proj": linear(queries, width, biases["out"]),
    }
    if config.head_norms:
        attention |= {"q_norm": scale(size), "k_norm": scale(size)}
    layers: dict[str, Any] = {
        "self_attn": attention,
        "mlp": {
            "gate_proj": linear(width, hidden, biases["mlp"]),
            "up_proj": linear(width, hidden, biases["mlp"]),
            "down_proj": linear(hidden, width, biases["mlp"]),
        },
        "input_layernorm": scale(width),
        "post_attention_layernorm": scale(width),
    }
    if config.gemma:
        layers["pre_feedforward_layernorm"] = scale(width)
        layers["post_feedforward_layernorm"] = scale(width)
    model = {
        "embed_tokens": {"embedding": of(config.vocabulary, width)},
        "layers": layers,
        "norm": {"scale": of(width)},
    }
    head = {} if config.tied else {"lm_head": {"kernel": of(width, config.vocabulary)}}
    return {"model": model, **head}


def logits(config: DecoderConfig, params: Tree, tokens: jax.Array, *, dtype: Any) -> jax.Array:
    """Computes the logits of the next tokens.

    Args:
        config: of the network.
        params: as `shapes` describes them, in any precision.
        tokens: int32 [B, T].
        dtype: of the products; None: that of the parameters. Norms, scores and logits are float32.

    Returns:
        At least float32 [B, T, V]; NaN for a token that the embedding does not have.

    Raises:
        InputError: more positions than the network takes.
    """
    length = tokens.shape[1]
    if length > config.positions:
        raise InputError(f"expected at most {config.positions} positions, got {length}")
    embedding = params["model"]["embed_tokens"]["embedding"]
    x = jnp.take(embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan)
    x = x.astype(dtype or embedding.dtype)
    if config.gemma:
        x = x * config.width**0.5
    turns = angles(config.rotary, length)

    def step(x: jax.Array, block: tuple[Tree, jax.Array]) -> tuple[jax.Array, None]:
        return _block(config, *block, x, turns), None

    x, _ = jax.lax.scan(step, x, (params["model"]["layers"], jnp.asarray(config.slides)))
    x = _norm(config, params["model"]["norm"], x)
    head = embedding.T if config.tied else params["lm_head"]["kernel"]
    return _capped(_wide(x @ head.astype(x.dtype)), config.logit_cap)


def _block(
    config: DecoderConfig,
    block: Tree,
    slides: jax.Array,
    x: jax.Array,
    turns: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Maps [B, T, C] to [B, T, C]."""
    norm = partial(_norm, config)
    mixed = _attention(config, block["self_attn"], slides, norm(block["input_layernorm"], x), turns)
    after = block["post_attention_layernorm"]
    if not config.gemma:
        x = x + mixed
        return x + _mlp(config, block["mlp"], norm(after, x))
    x = x + norm(after, mixed)
    y = _mlp(config, block["mlp"], norm(block["pre_feedforward_layernorm"], x))
    return x + norm(block["post_feedforward_layernorm"], y)


def _attention(
    config: DecoderConfig,
    parts: Tree,
    slides: jax.Array,
    x: jax.Array,
    turns: tuple[jax.Array, jax.Array],
) -> jax.Array:
    batch, length, _ = x.shape
    query, key, value = (
        _linear(parts[name], x).reshape(batch, length, -1, config.head_size)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    if config.head_norms:
        query, key = _norm(config, parts["q_norm"], query), _norm(config, parts["k_norm"], key)
    query, key = rotate(query, *turns), rotate(key, *turns)
    query = query.reshape(batch, length, config.groups, -1, config.head_size)
    scores = _wide(jnp.einsum("btgrd,bsgd->bgrts", query * config.query_scale, key))
    scores = _capped(scores, config.score_cap)
    seen = _seen(config, slides, length)
    shares = jax.nn.softmax(jnp.where(seen[None, None, None], scores, -jnp.inf), -1)
    mixed = jnp.einsum("bgrts,bsgd->btgrd", shares.astype(value.dtype), value)
    return _linear(parts["o_proj"], mixed.reshape(batch, length, -1))


def _seen(config: DecoderConfig, slides: jax.Array, length: int) -> jax.Array:
    """Says which positions [T, T] each one sees: itself, and those before it or some of them."""
    all_before = jnp.tri(length, dtype=bool)
    if not any(config.slides):
        return all_before
    near = jnp.triu(all_before, 1 - config.window)
    return jnp.where(slides, near, all_before)


def _mlp(config: DecoderConfig, parts: Tree, x: jax.Array) -> jax.Array:
    gate = _ACTIVATIONS[config.activation](_linear(parts["gate_proj"], x))
    return _linear(parts["down_proj"], gate * _linear(parts["up_proj"], x))


def _linear(part: Tree, x: jax.Array) -> jax.Array:
    y = x @ part["kernel"].astype(x.dtype)
    return y + part["bias"][None, None].astype(x.dtype) if "bias" in part else y


def _norm(config: DecoderConfig, part: Tree, x: jax.Array) -> jax.Array:
    """Divides by the root of the mean square over the last axis (Zhang and Sennrich 2019)."""
    wide = _wide(x)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + config.epsilon)
    scale = part["scale"].astype(wide.dtype)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return (wide * (1 + scale if config.gemma else scale)).astype(x.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _capped(x: jax.Array, cap: float | None) -> jax.Array:
    return x if cap is None else cap * jnp.tanh(x / cap)

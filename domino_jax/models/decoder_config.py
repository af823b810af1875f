"""What a config.json of Hugging Face says of a decoder-only language model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domino_jax.core.errors import InputError
from domino_jax.models.rotary import Frequencies, frequencies

LARGEST = 2**31 - 1  # indices are int32
_MOST_BLOCKS, _MOST_CHANNELS = 10_000, 65_536  # of which lists are made before weights are read
_LARGEST_NUMBER = 1e38  # float32 ends at 3.4e38
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, eq=False)
class DecoderConfig:
    """A decoder.

    Attributes:
        vocabulary: rows of the embedding.
        width: channels of the residual stream.
        hidden: channels within an MLP.
        depth: blocks.
        heads: of queries.
        groups: heads of keys and values, a divisor of `heads`.
        head_size: channels of a head.
        positions: the longest window.
        activation: one of `ACTIVATIONS`.
        epsilon: of the norms.
        rotary: of queries and keys.
        query_scale: of the scores.
        biases: of 'query' (keys and values too), 'out' and 'mlp': whether they are there.
        head_norms: each head of queries and keys is normalized.
        gemma: norms also after attention and MLP, norms scale by 1 + w, embeddings by √width.
        window: how many positions a sliding block sees, itself included.
        slides: of each block, whether it is a sliding one.
        score_cap: scores are cap · tanh(scores / cap); None: as they are.
        logit_cap: the same of the logits.
        tied: the head is the embedding.
    """

    vocabulary: int
    width: int
    hidden: int
    depth: int
    heads: int
    groups: int
    head_size: int
    positions: int
    activation: str
    epsilon: float
    rotary: Frequencies
    query_scale: float
    biases: Mapping[str, bool]
    head_norms: bool
    gemma: bool
    window: int
    slides: tuple[bool, ...]
    score_cap: float | None
    logit_cap: float | None
    tied: bool


# What a config.json may leave out, as transformers' classes have it.
_COMMON = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
    "use_sliding_window": False,
    "use_bidirectional_attention": False,
    "is_causal": True,
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "llama": _COMMON | {"max_position_embeddings": 2048},
    "mistral": _COMMON | {"max_position_embeddings": 131072, "num_key_value_heads": 8},
    "qwen2": _COMMON | {"max_position_embeddings": 32768},
    "qwen3": _COMMON | {"max_position_embeddings": 32768, "head_dim": 128},
    "gemma2": _COMMON
    | {
        "max_position_embeddings": 8192,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
        "tie_word_embeddings": True,
    },
}


def read_config(document: Any) -> DecoderConfig:
    """Reads the contents of a config.json.

    Raises:
        InputError: one line: an architecture that is not there, with those that are, or a key that
            is missing or has a value that is not supported.
    """
    if not isinstance(document, Mapping):
        raise InputError(f"expected an object, got {type(document).__name__}")
    kind = str(document.get("model_type"))
    if kind not in KINDS:
        raise InputError(f"model_type: expected one of {', '.join(KINDS)}, got {kind!r}")
    if document.get("quantization_config"):
        raise InputError("quantization_config: expected none: save the network in plain numbers")
    values = {**KINDS[kind], **document}
    for key, expected in (("use_bidirectional_attention", False), ("is_causal", True)):
        if _flag(values, key) != expected:
            raise InputError(
                f"{key}: expected {str(expected).lower()}: the next token is predicted, got "
                f"{values[key]!r}"
            )
    sizes = _sizes(values)
    try:
        rotary = frequencies(_rope(values), size=sizes["head_size"], positions=sizes["positions"])
    except InputError as error:
        raise InputError(f"rope_parameters: {error}") from None
    gemma = kind == "gemma2"
    slides = _slides(kind, values, sizes["depth"])
    scalar = _number(values, "query_pre_attn_scalar") if gemma else sizes["head_size"]
    return DecoderConfig(
        **sizes,
        activation=_activation(values, "hidden_activation" if gemma else "hidden_act"),
        epsilon=_number(values, "rms_norm_eps"),
        rotary=rotary,
        query_scale=scalar**-0.5,
        biases=_biases(kind, values),
        head_norms=kind == "qwen3",
        gemma=gemma,
        window=_whole(values, "sliding_window") if any(slides) else 0,
        slides=slides,
        score_cap=_cap(values, "attn_logit_softcapping") if gemma else None,
        logit_cap=_cap(values, "final_logit_softcapping") if gemma else None,
        tied=_flag(values, "tie_word_embeddings"),
    )


def _sizes(values: Mapping[str, Any]) -> dict[str, int]:
    names = {
        "vocabulary": "vocab_size",
        "width": "hidden_size",
        "hidden": "intermediate_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "positions": "max_position_embeddings",
    }
    most = {"depth": _MOST_BLOCKS}
    sizes = {name: _whole(values, key, most=most.get(name, LARGEST)) for name, key in names.items()}
    heads = sizes["heads"]
    empty = values["num_key_value_heads"] is None
    groups = heads if empty else _whole(values, "num_key_value_heads")
    if heads % groups:
        raise InputError(f"num_key_value_heads: expected a divisor of {heads} heads, got {groups}")
    empty = values["head_dim"] is None
    size = sizes["width"] // heads if empty else _whole(values, "head_dim")
    if size % 2 or not 2 <= size <= _MOST_CHANNELS:
        raise InputError(
            f"head_dim: expected an even number from 2 to {_MOST_CHANNELS} for rotary embeddings, "
            f"got {size}"
        )
    return sizes | {"groups": groups, "head_size": size}


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Joins what older and newer versions of transformers write; what wins is as it is there."""
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise InputError(f"expected an object, got {rope!r}")
    if any(isinstance(part, Mapping) for part in rope.values()):
        raise InputError("expected one rule for all layers, got one by kind of layer")
    top, own = (
        {key: values[key] for key in keys if values.get(key) is not None}
        for keys in (
            ("rope_theta", "partial_rotary_factor"),
            ("original_max_position_embeddings",),
        )
    )
    return {**top, **rope, **own}


def _slides(kind: str, values: Mapping[str, Any], depth: int) -> tuple[bool, ...]:
    """Says of each block whether it sees a sliding window alone."""
    if kind == "llama":
        return (False,) * depth
    types = values["layer_types"]
    if types is not None:
        allowed = ("full_attention", "sliding_attention")
        fits = isinstance(types, list) and len(types) == depth
        if not fits or not all(name in allowed for name in types):
            raise InputError(f"layer_types: expected {depth} of {', '.join(allowed)}, got {types}")
        return tuple(name == "sliding_attention" for name in types)
    if kind == "mistral":
        return (values["sliding_window"] is not None,) * depth
    if kind == "gemma2":
        return tuple(block % 2 == 0 for block in range(depth))
    slides = _flag(values, "use_sliding_window")
    first = _whole(values, "max_window_layers", least=0) if slides else depth
    return tuple(block >= first for block in range(depth))


def _biases(kind: str, values: Mapping[str, Any]) -> dict[str, bool]:
    asked = _flag(values, "attention_bias") and kind in ("llama", "qwen3", "gemma2")
    return {
        "query": asked or kind == "qwen2",
        "out": asked,
        "mlp": _flag(values, "mlp_bias") and kind == "llama",
    }


def _activation(values: Mapping[str, Any], key: str) -> str:
    if values[key] not in ACTIVATIONS:
        raise InputError(f"{key}: expected one of {', '.join(ACTIVATIONS)}, got {values[key]!r}")
    return str(values[key])


def _flag(values: Mapping[str, Any], key: str) -> bool:
    """Reads true or false; null is false, as it is in transformers."""
    value = values[key]
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{key}: expected true or false, got {value!r}")
    return value is True


def _cap(values: Mapping[str, Any], key: str) -> float | None:
    return None if values[key] is None else _number(values, key)


def _checked(values: Mapping[str, Any], key: str, what: str, fits: Callable[[Any], bool]) -> Any:
    value = values.get(key)
    if isinstance(value, bool) or not fits(value):
        raise InputError(f"{key}: expected {what}, got {'none' if value is None else repr(value)}")
    return value


def _whole(values: Mapping[str, Any], key: str, *, least: int = 1, most: int = LARGEST) -> int:
    what = f"a whole number from {least} to {most}"
    return int(_checked(values, key, what, lambda v: isinstance(v, int) and least <= v <= most))


def _number(values: Mapping[str, Any], key: str) -> float:
    def fits(value: Any) -> bool:
        return isinstance(value, int | float) and 0 < value <= _LARGEST_NUMBER

    what = f"a number above 0, up to {_LARGEST_NUMBER:g}"
    return float(_checked(values, key, what, fits))

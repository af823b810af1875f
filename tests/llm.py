"""Small random language models of every kind, in folders that transformers writes."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch_export import round_trip

from domino_jax.core.scheme import load_document

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "llama dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": 3, "head_dim": 8}),
    "mistral full": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "gemma2": ("gemma2", {"head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 9}),
}


def make(kind, *, seed=0, **changes):
    """Makes a network of transformers, all of whose weights are random, biases and norms too."""
    model_type, more = KINDS[kind]
    more = dict(more)
    if "rope_parameters" in more:
        more["rope_parameters"] = {"rope_theta": 10000.0, **more["rope_parameters"]}
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **more, **changes})
    torch.manual_seed(seed)
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.normal_(1.0 if "norm" in name and model_type != "gemma2" else 0.0, 0.3)
    return network.eval()


def save(network, folder, **options):
    network.save_pretrained(folder, **options)
    return folder


def continuation(apply, params, prompt, count):
    """Returns the tokens, each the likeliest one, that follow a prompt.

    What stands behind the last token is not seen, so that one compiled program serves all.
    """
    forward = jax.jit(lambda params, tokens: apply(params, {}, tokens, train=False)[0])
    tokens = np.zeros((1, len(prompt) + count), np.int32)
    tokens[0, : len(prompt)] = prompt
    for place in range(len(prompt), tokens.shape[1]):
        tokens[0, place] = np.argmax(forward(params, tokens)[0, place - 1])
    return tokens[0, len(prompt) :].tolist()


def their_continuation(network, prompt, count):
    """Returns the same of a network of transformers."""
    made = network.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return made[0, len(prompt) :].tolist()


def packed_alike(folder):
    """Says of each matrix that scheme.json calls sparse24 whether PyTorch's packing keeps it."""
    takes = load_document(folder / "scheme.json")["sparse24"]
    tensors = {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}
    matrices = {name: tensors[name].to(torch.bfloat16) for name in takes}
    return {name: bool((round_trip(w) == w).all()) for name, w in matrices.items()}


def change(path, **changes):
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

"""Small random language models of every kind, in folders that transformers writes."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers

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


def change(path, **changes):
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

"""Decoders of every kind against transformers, on the same random weights."""

import json
import math

import jax
import jax.numpy as jnp
import llm
import numpy as np
import pytest
import torch
import transformers

from domino_jax import models
from domino_jax.core.errors import InputError
from domino_jax.models import decoder
from domino_jax.models.decoder_config import read_config
from domino_jax.trace.layers import find_layers
from domino_jax.trace.taps import tap

TOKENS = np.random.default_rng(0).integers(0, 40, (2, 24)).astype(np.int32)
EXAMPLE = jax.ShapeDtypeStruct((1, 24), np.int32)
CONFIG = {"model_type": "llama", **{k: v for k, v in llm.SMALL.items() if v is not None}}


def ours(folder, **options):
    return models.create(
        "causal_lm", example=EXAMPLE, classes=40, seed=0, folder=str(folder), **options
    )


def logits(model, tokens=TOKENS):
    return np.asarray(
        jax.jit(lambda p, x: model.apply(p, {}, x, train=False)[0])(model.params, tokens)
    )


@pytest.mark.parametrize("kind", llm.KINDS)
def test_logits_are_those_of_transformers(kind, tmp_path):
    network = llm.make(kind)
    model = ours(llm.save(network, tmp_path))
    with torch.no_grad():
        expected = network(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits(model), expected, atol=1e-4, rtol=0)


ALTERNATE = ["sliding_attention", "full_attention", "sliding_attention"]
TWICE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 3, "layer_types": ALTERNATE}),
        ("mistral", {"sliding_window": 3, "layer_types": None}),
        (
            "llama",
            {
                "rope_parameters": None,
                "rope_theta": 1e4,
                "rope_scaling": TWICE,
                "original_max_position_embeddings": 32,
            },
        ),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ],
)
def test_what_wins_of_two_keys_is_as_in_transformers(kind, changes, tmp_path):
    # Of heads this large more than one frequency is changed.
    folder = llm.save(llm.make(kind, head_dim=32), tmp_path)
    path = folder / "config.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if k not in changes or v}))
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = network(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(logits(ours(folder)), expected, atol=1e-4, rtol=0)


def test_the_future_is_not_seen(tmp_path):
    model = ours(llm.save(llm.make("gemma2"), tmp_path))
    changed = TOKENS.copy()
    changed[:, 12:] = (changed[:, 12:] + 1) % 40
    before, after = logits(model), logits(model, changed)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).all()


def test_bfloat16_is_near_and_its_logits_are_float32(tmp_path):
    llm.save(llm.make("llama"), tmp_path)
    exact, low = (logits(ours(tmp_path, dtype=dtype)) for dtype in (None, "bfloat16"))
    assert low.dtype == np.float32
    assert 0 < np.abs(exact - low).max() < 0.1 * np.abs(exact).max()


YARN, LLAMA3 = llm.YARN, llm.LLAMA3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "mamba"},
            "model_type: expected one of llama, mistral, qwen2, qwen3, gemma2, got 'mamba'",
        ),
        (
            {"hidden_size": None},
            "hidden_size: expected a whole number from 1 to 2147483647, got none",
        ),
        ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor of 4 heads, got 3"),
        ({"head_dim": 5}, "head_dim: expected an even number from 2 to 65536 for rotary"),
        ({"head_dim": None, "hidden_size": 2}, "for rotary embeddings, got 0"),
        ({"head_dim": 2**30}, "for rotary embeddings, got 1073741824"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: expected a whole number from 1 to 10"),
        ({"vocab_size": 2**31}, "vocab_size: expected a whole number from 1 to 2147483647"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps: expected a number above 0, up to 1e+38"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps: expected a number above 0, up to 1e+38"),
        (
            {"model_type": "gemma2", "query_pre_attn_scalar": "9"},
            "query_pre_attn_scalar: expected a number above 0",
        ),
        (
            {"model_type": "qwen2", "layer_types": [["full_attention"]] * 3},
            "layer_types: expected 3 of full_attention, sliding_attention",
        ),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: expected false"),
        ({"is_causal": False}, "is_causal: expected true: the next token is predicted, got False"),
        ({"is_causal": None}, "is_causal: expected true"),
        ({"is_causal": "false"}, "is_causal: expected true or false, got 'false'"),
        ({"use_bidirectional_attention": 0}, "expected true or false, got 0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings: expected true or false, got 'f"),
        ({"attention_bias": "no"}, "attention_bias: expected true or false, got 'no'"),
        ({"mlp_bias": 1.5}, "mlp_bias: expected true or false, got 1.5"),
        (
            {"model_type": "qwen2", "use_sliding_window": "false"},
            "use_sliding_window: expected true or false, got 'false'",
        ),
        ({"rope_scaling": [1]}, "expected an object, got [1]"),
        ({"rope_theta": 10**400}, "rope_theta of the rotary embeddings: expected a number from"),
        ({"rope_theta": math.nan}, "rope_theta of the rotary embeddings: expected a number from"),
        ({"rope_theta": 1, "rope_scaling": YARN}, "expected another than 1 for yarn"),
        ({"rope_scaling": YARN | {"beta_fast": "32"}}, "beta_fast of the rotary embeddings"),
        ({"rope_scaling": YARN | {"beta_slow": -1}}, "beta_slow of the rotary embeddings"),
        (
            {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
            "high_freq_factor: expected above low_freq_factor = 1, got 1",
        ),
        ({"hidden_act": "tanh"}, "hidden_act: expected one of silu, gelu, gelu_pytorch_tanh, relu"),
        ({"rope_scaling": {"type": "longrope"}}, "unknown rule of rotary embeddings"),
        (
            {"rope_scaling": {"type": "linear"}},
            "factor of the rotary embeddings: expected a number",
        ),
        ({"rope_scaling": {"full_attention": {}}}, "expected one rule for all layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected none"),
    ],
)
def test_configs_that_are_refused(changes, said):
    with pytest.raises(InputError) as error:
        read_config(CONFIG | changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_flags_that_are_null_are_false():
    nulls = dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias"))
    config = read_config(CONFIG | {"model_type": "llama"} | nulls)
    assert (config.tied, {*config.biases.values()}) == (False, {False})
    assert not any(read_config(CONFIG | {"model_type": "qwen2", "use_sliding_window": None}).slides)


def test_older_and_newer_configs_say_the_same():
    scaling = {"rope_type": "linear", "factor": 2.0}
    old = read_config(CONFIG | {"rope_theta": 500.0, "rope_scaling": scaling})
    new = read_config(CONFIG | {"rope_parameters": {**scaling, "rope_theta": 500.0}})
    np.testing.assert_array_equal(old.rotary[0], new.rotary[0])
    assert old.rotary[0][1] == 500.0 ** (-2 / 4) / 2


def test_each_slice_of_the_scanned_blocks_is_a_layer_with_statistics_of_its_own():
    config = read_config(CONFIG | {"num_hidden_layers": 2})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        decoder.shapes(config, np.float32),
    )

    def forward(params, tokens):
        return decoder.logits(config, params, tokens, dtype=None)

    tokens = jnp.asarray(TOKENS[:, :6])
    layers = find_layers(forward, params, tokens[:1], 8)
    grouped = [layer.name for layer in layers if layer.groups]
    assert len(grouped) == 2 * 7 + 1
    found = tap(
        lambda params, x: jnp.mean(jnp.square(forward(params, x))), params, [tokens], layers
    )
    assert (set(grouped) - found.statistics.keys(), found.untapped) == (set(), {})
    x = params["model"]["embed_tokens"]["embedding"][tokens]
    turns = decoder.angles(config.rotary, 6)
    for index in range(2):
        block = jax.tree.map(lambda leaf, i=index: leaf[i], params["model"]["layers"])
        seen = decoder._norm(config, block["input_layernorm"], x)
        expected = jnp.mean(jnp.square(seen), axis=(0, 1))
        squares = found.statistics[f"model/layers/self_attn/q_proj/kernel#{index}"].squares
        np.testing.assert_allclose(squares[0], expected, rtol=1e-4)
        x = decoder._block(config, block, jnp.bool_(False), x, turns)


def test_more_positions_than_the_network_has(tmp_path):
    model = ours(llm.save(llm.make("llama"), tmp_path))
    length = read_config(json.loads((tmp_path / "config.json").read_text())).positions + 1
    with pytest.raises(InputError, match=f"expected at most {length - 1} positions, got {length}"):
        model.apply(model.params, {}, jnp.zeros((1, length), jnp.int32), train=False)

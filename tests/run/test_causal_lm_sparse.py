"""A sparse folder is what it says, and continues a text as the network here does."""

from pathlib import Path

import jax
import llm
import numpy as np
import pytest
import scripts
import tokens
import torch
import transformers

from domino_jax import export, models
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import load
from domino_jax.pytorch.torch_file import read

CONFIG = Path(__file__).parents[2] / "configs" / "causal_lm_ampere.py"
TEXT = "a small text of few words that say little and say it again and again\n"
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
pytestmark = pytest.mark.slow
PROMPTS = ([1, 2, 3], [7, 0, 7, 0], [20])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    network = llm.make("llama", vocab_size=tokens.SIZE, num_key_value_heads=4, **SIZES)
    tokens.save(llm.save(network.to(torch.bfloat16), folder / "dense"))
    (folder / "text").mkdir()
    for number in range(4):
        (folder / "text" / f"{number}.txt").write_text(TEXT * 5)
    return folder


def given(folder, *more):
    return (
        f"init={folder / 'dense'}",
        f"data.dir={folder / 'text'}",
        *("data.length=16", "search.batch=4", "search.calibration_batches=1", "train.batch=4"),
        *("train.calibration_batches=1", "train.method=update", *more),
    )


@pytest.fixture(scope="module")
def exported(folder):
    """Weights of bfloat16 all the way: searched, updated and exported."""
    options = given(folder, "model.param_dtype=bfloat16")
    scripts.search(folder / "run", *options, config=CONFIG)
    scripts.train(folder / "run", *options, config=CONFIG)
    flags = [f"--workdir={folder / 'run'}", f"--out={folder / 'out'}", "--format=hf"]
    assert export.main(flags) == 0
    return folder / "out"


def test_matrices_that_say_so_can_be_packed(exported):
    scheme, kept = load(exported / "scheme.json"), llm.packed_alike(exported)
    assert set(kept) == {name for name, nm in scheme.items() if nm.n == 2}
    assert kept
    assert all(kept.values())


def test_the_update_changes_what_stays(folder, exported):
    (dense,) = read(folder / "dense" / "model.safetensors").values()
    (sparse,) = read(exported / "model.safetensors").values()
    scheme = load(exported / "scheme.json")
    for name, weight in sparse.items():
        assert weight.dtype == dense[name].dtype
        is_sparse = name in scheme and scheme[name].n == 2
        kept = weight != 0
        assert (weight[kept] != dense[name][kept]).any() == is_sparse


def test_texts_are_continued_as_by_transformers(folder, exported):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    ours = models.create(
        "causal_lm",
        example=jax.ShapeDtypeStruct((1, 16), np.int32),
        classes=tokens.SIZE,
        seed=0,
        folder=str(exported),
    )
    for prompt in PROMPTS:
        made = llm.continuation(ours.apply, ours.params, prompt, 8)
        assert made == llm.their_continuation(theirs, prompt, 8)


def test_narrow_weights_are_not_trained(folder, tmp_path):
    options = given(folder, "model.param_dtype=bfloat16", "search.method=uniform")
    scripts.search(tmp_path, *options, config=CONFIG)
    refused = pytest.raises(InputError, match=r"model\.param_dtype: expected float32 weights")
    with refused:
        more = ("train.method=sr_ste", "train.score=magnitude")
        scripts.train(tmp_path, *options, *more, config=CONFIG)
    with refused:
        scripts.search(tmp_path / "other", *options, "search.method=domino", config=CONFIG)

"""A folder of Hugging Face in, a mixed N:M folder out: search, train, export, read back."""

import subprocess
import sys
from pathlib import Path

import jax
import llm
import numpy as np
import pytest
import scripts
import tokens
import torch
import transformers
from safetensors.numpy import load_file

from domino_jax import export, models
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.masks import most_nonzeros
from domino_jax.core.scheme import load

CONFIGS = Path(__file__).parents[2] / "configs"
TEXT = "a small text of few words that say little and say it again and again\n"
SMALL = (
    *("data.length=16", "search.batch=4", "search.calibration_batches=2", "train.batch=4"),
    *("search.candidates=(1,2,3,4,5,6,7,8)", "search.m=8", "train.calibration_batches=2"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with its tokenizer, in several shards of bfloat16."""
    tmp_path = tmp_path_factory.mktemp("networks")
    network = llm.make("gemma2", vocab_size=tokens.SIZE, num_hidden_layers=2).to(torch.bfloat16)
    llm.save(network, tmp_path / "dense", max_shard_size="10KB")
    tokens.save(tmp_path / "dense")
    (tmp_path / "text").mkdir()
    for number in range(4):
        (tmp_path / "text" / f"{number}.txt").write_text(TEXT * (4 + number))
    return tmp_path / "dense"


def options(folder, *more):
    return (f"init={folder}", f"data.dir={folder.parent / 'text'}", *SMALL, *more)


@pytest.fixture(scope="module")
def finished(folder):
    """The work directory of a search and of a training without steps."""
    workdir, config = folder.parent / "run", CONFIGS / "causal_lm.py"
    given = options(folder, "search.method=erk")
    scripts.search(workdir, *given, config=config)
    scripts.train(workdir, *given, config=config)
    return workdir


def logits(folder, batch):
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return network(torch.tensor(batch, dtype=torch.long)).logits.numpy()


def test_a_folder_in_and_a_sparse_folder_out(folder, finished, tmp_path, capsys):
    out = tmp_path / "out"
    assert export.main([f"--workdir={finished}", f"--out={out}", "--format=hf"]) == 0
    assert "14 matrices" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in out.iterdir()} == names | {"scheme.json"}
    for name in names:
        if not name.endswith(".safetensors"):
            assert (out / name).read_bytes() == (folder / name).read_bytes()
    scheme = load(out / "scheme.json")
    assert len(scheme) == 14
    assert len(set(scheme.values())) > 1
    zeros = total = 0
    for path in folder.glob("*.safetensors"):
        dense, sparse = load_file(path), load_file(out / path.name)
        assert list(dense) == list(sparse)
        for name, weight in dense.items():
            written = sparse[name]
            assert (written.dtype, written.shape) == (weight.dtype, weight.shape)
            kept = written != 0
            np.testing.assert_array_equal(written[kept], weight[kept])
            if name in scheme:
                axes = Axes((), (), (1,), (0,))
                wide = written.astype(np.float32)
                assert most_nonzeros(wide, scheme[name].m, axes) <= scheme[name].n
                zeros, total = zeros + np.count_nonzero(~kept), total + kept.size
            else:
                assert (kept == (weight != 0)).all()
    assert 0.4 * total < zeros < 0.6 * total
    results = scripts.results(finished)["train"]
    assert results["dense"].keys() == {"loss", "accuracy", "perplexity"}
    assert results["masked"]["perplexity"] == pytest.approx(np.exp(results["masked"]["loss"]))
    batch = np.arange(32).reshape(2, 16) % tokens.SIZE
    example = jax.ShapeDtypeStruct((1, 16), np.int32)
    model = models.create(
        "causal_lm", example=example, classes=tokens.SIZE, seed=0, folder=str(out)
    )
    saved = scripts.arrays(finished / "train" / "sparse")
    ours = model.apply(model.params, {}, batch.astype(np.int32), train=False)[0]
    np.testing.assert_allclose(ours, logits(out, batch), atol=1e-4, rtol=0)
    assert np.abs(ours - logits(folder, batch)).max() > 0.1
    np.testing.assert_array_equal(
        saved["params/model/layers/mlp/up_proj/kernel"],
        model.params["model"]["layers"]["mlp"]["up_proj"]["kernel"],
    )


def test_what_does_not_go_with_such_an_export(folder, finished, tmp_path, capsys):
    flags = [f"--workdir={finished}", f"--out={tmp_path / 'out'}", "--format=hf"]
    assert export.main([*flags, "--dtype=float16"]) == 1
    assert "--dtype: --format=hf keeps names and dtypes" in capsys.readouterr().err
    folder.rename(tmp_path / "elsewhere")
    assert export.main(flags) == 1
    (tmp_path / "elsewhere").rename(folder)
    said = capsys.readouterr().err
    assert str(folder) in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_go_with_a_folder(folder, tmp_path):
    config = CONFIGS / "causal_lm.py"
    with pytest.raises(InputError, match=r"expected 'dense', since .* gives the weights"):
        scripts.search(tmp_path / "run", *options(folder, "train.start=random"), config=config)
    with pytest.raises(InputError, match=r"a folder of Hugging Face: expected model\.name="):
        scripts.search(tmp_path / "run", f"init={folder}")
    for init, said in (
        (tmp_path / "a.gguf", "gguf_file=NAME"),
        (next(folder.glob("*.safetensors")), "give the folder that holds this file"),
        ("", "expected a folder that save_pretrained wrote"),
    ):
        with pytest.raises(InputError, match=said):
            scripts.search(tmp_path / "run", f"init={init}", config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal_lm", "causal_lm_ampere"])
def test_the_commands(name, folder, tmp_path):
    of_all = [option for option in options(folder) if not option.startswith("search.m=")]
    given = [f"--config.{option}" for option in of_all if "candidates" not in option]
    files = [f"--config={CONFIGS / name}.py", f"--workdir={tmp_path / 'run'}"]
    for script in ("search.py", "train.py"):
        subprocess.run([sys.executable, script, *files, *given], cwd=scripts.ROOT, check=True)
    command = [sys.executable, "-m", "domino_jax.export", f"--workdir={tmp_path / 'run'}"]
    command += [f"--out={tmp_path / 'out'}", "--format=hf"]
    subprocess.run(command, cwd=scripts.ROOT, check=True)
    assert np.isfinite(logits(tmp_path / "out", np.arange(16)[None])).all()

"""Folders of Hugging Face: read, and refused in one line."""

import json
import os
import shutil

import jax
import llm
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from domino_jax import models
from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path
from domino_jax.pytorch import hugging_face, hugging_face_writer

EXAMPLE = jax.ShapeDtypeStruct((1, 16), np.int32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One file."""
    return llm.save(llm.make("llama tied"), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same network in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    return llm.save(llm.make("llama tied"), folder, max_shard_size="10KB")


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "shards")


def read(folder, classes=40, example=EXAMPLE):
    return models.create(
        "causal_lm", example=example, classes=classes, seed=0, folder=str(folder)
    ).params


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "llama biases"])
def test_names_go_both_ways_and_every_bit_stays(kind, tmp_path):
    folder = llm.save(llm.make(kind), tmp_path)
    written = load_file(folder / "model.safetensors")
    params = leaves_by_path(read(folder))
    places = hugging_face.places(hugging_face.config_of(str(folder)))
    assert places.keys() == written.keys()
    assert {hugging_face.name_of(place.path, place.index) for place in places.values()} == {*places}
    for name, place in places.items():
        whole = params[place.path]
        part = np.asarray(whole if place.index is None else whole[place.index])
        np.testing.assert_array_equal(part.T if place.turned else part, written[name])


def test_shards_are_the_same_network(whole, sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 2
    jax.tree.map(np.testing.assert_array_equal, read(whole), read(sharded))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_read_in_the_dtype_that_is_asked_for(dtype, sharded):
    example = {"example": EXAMPLE, "classes": 40, "seed": 0, "folder": str(sharded)}
    model = models.create("causal_lm", **example, param_dtype=dtype)
    plain = leaves_by_path(read(sharded))
    for path, leaf in leaves_by_path(model.params).items():
        assert leaf.dtype == dtype
        np.testing.assert_array_equal(leaf, plain[path].astype(dtype))
    tokens = np.zeros((1, 16), np.int32)
    assert model.apply(model.params, {}, tokens, train=False)[0].dtype == np.float32
    with pytest.raises(InputError, match="dtype: expected one of"):
        models.create("causal_lm", **example, param_dtype=16)


def test_what_old_versions_saved_beside_the_weights_is_left_out(copy, whole):
    arrays = load_file(copy / "model.safetensors")
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    save_file(arrays, copy / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read(copy), read(whole))


def refused(folder, **options):
    with pytest.raises(InputError) as error:
        read(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    return refused(folder)


def test_tensors_that_do_not_fit(copy):
    path = "model.layers.1.mlp.up_proj.weight"
    said = changed(copy, lambda arrays: arrays.update({path: np.zeros((16, 32), np.float32)}))
    assert said.endswith(f"{path}: expected [32, 16] by config.json, got [16, 32]")
    said = changed(copy, lambda arrays: arrays.update({path: np.zeros((32, 16), np.int8)}))
    floats = "float16, bfloat16, float32, float64"
    assert said.endswith(f"'{path}': expected one of {floats}, got int8")
    large = np.full((32, 16), 1e300)
    said = changed(copy, lambda arrays: arrays.update({path: large}))
    assert said == (
        f"{copy / 'model.safetensors'}: '{path}': expected numbers that float32 has room for, got "
        "float64 with larger ones"
    )
    said = changed(copy, lambda arrays: arrays.pop(path))
    assert said.endswith(f"1 tensors are missing: {path}, …")
    said = changed(copy, lambda arrays: arrays.update({"model.norms.weight": np.zeros(16)}))
    assert "unknown tensor 'model.norms.weight'; nearest: model.norm.weight" in said


def test_a_head_that_is_not_the_embedding_it_is_tied_to(copy):
    said = changed(
        copy, lambda arrays: arrays.update({"lm_head.weight": np.zeros((40, 16), np.float32)})
    )
    assert said.endswith(
        "lm_head.weight differs from model.embed_tokens.weight, to which it is tied"
    )


def test_such_a_head_in_another_file_than_the_embedding(shards):
    index = shards / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    where = document["weight_map"]
    embedding = load_file(shards / where["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    for other in sorted({*where.values()} - {where["model.embed_tokens.weight"]}):
        arrays = load_file(shards / other)
        for head, fits in ((embedding, True), (embedding + 0.5, False)):
            save_file(arrays | {"lm_head.weight": head}, shards / other)
            if fits:
                read(shards)
            else:
                with pytest.raises(InputError, match=r"lm_head.weight differs from model.embed"):
                    read(shards)
        save_file(arrays, shards / other)


def test_what_is_written_again_keeps_bits_that_its_parameter_has_no_room_for():
    place = {"model.norm.weight": hugging_face.Place("model/norm/scale", None, turned=False)}
    tensor = np.array([1 / 3, 0.1, 1e-50, 2.0])
    params = {"model/norm/scale": tensor.astype(np.float32)}
    params["model/norm/scale"][[1, 3]] = 0, 5  # one went, one was trained
    written = hugging_face_writer._written(params, place, "model.norm.weight", tensor)
    np.testing.assert_array_equal(written, [1 / 3, 0, 0, 5])


def test_shards_that_are_missing_or_damaged(shards):
    first, second, *_ = sorted(shards.glob("*.safetensors"))
    second.rename(shards / "elsewhere")
    assert f"{second}: this shard is missing" in refused(shards)
    second.write_bytes((shards / "elsewhere").read_bytes()[:-7])
    assert f"{second}: not a safetensors file, or damaged" in refused(shards)
    shutil.copy(first, second)
    assert "is missing: model.safetensors.index.json says it is there" in refused(shards)
    index = shards / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    llm.change(index, weight_map={k: v for k, v in names.items() if v != second.name})
    assert "tensors are missing" in refused(shards)
    llm.change(index, weight_map={"model.norm.weight": 3})
    assert "expected a weight_map, name -> a .safetensors file" in refused(shards)


@pytest.mark.parametrize(
    "file",
    ["../out.safetensors", "/out.safetensors", "a/b.safetensors", "", "..", "out.bin", "\x1b[2J"],
)
def test_files_of_an_index_lie_in_its_folder(shards, file):
    index = shards / "model.safetensors.index.json"
    for place in (shards, shards.parent):
        (place / "out.safetensors").write_bytes(next(shards.glob("*.safetensors")).read_bytes())
    llm.change(index, weight_map={"model.norm.weight": file})
    assert "a .safetensors file of this folder" in refused(shards)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_no_shard(shards, copy, make):
    first, *_ = sorted(shards.glob("*.safetensors"))
    for path in (first, copy / "model.safetensors"):
        path.unlink()
        make(path)
    assert f"{first}: this shard is no regular file" in refused(shards)
    assert "expected model.safetensors or model.safetensors.index.json" in refused(copy)


def test_a_config_of_more_weights_than_the_files_have_bytes(copy, shards):
    for folder in (copy, shards):
        llm.change(folder / "config.json", vocab_size=10**9)
        said = refused(folder)
        assert "expected the sizes of the tensors in its safetensors, got 16,0" in said


def test_what_is_no_such_folder(copy, tmp_path):
    gguf = tmp_path / "small.gguf"
    gguf.write_bytes(b"GGUF")
    assert "gguf_file=NAME" in refused(gguf)
    assert "give the folder that holds this file" in refused(copy / "model.safetensors")
    assert "expected a folder that save_pretrained wrote" in refused(tmp_path / "none")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "got pytorch_model.bin; make them: AutoModelForCausalLM" in refused(copy)
    (copy / "config.json").write_text("{")
    assert f"{copy / 'config.json'}: broken JSON" in refused(copy)


def test_data_that_the_network_does_not_take(copy):
    assert "its embedding has 40 rows, the tokenizer of the data 41 tokens" in refused(
        copy, classes=41
    )
    long = jax.ShapeDtypeStruct((1, 65), np.int32)
    assert "data.length: expected at most the 64 positions of" in refused(copy, example=long)


def test_a_tensor_that_is_in_two_files(shards):
    first, second, *_ = sorted(shards.glob("*.safetensors"))
    names = load_file(first)
    save_file(load_file(second) | names, second)
    assert "is in another shard too" in refused(shards)


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert refused(copy).endswith(
        "expected model.safetensors or model.safetensors.index.json, got neither"
    )

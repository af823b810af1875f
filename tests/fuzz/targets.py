"""The parsers of users' files: seeds that each takes, and a function that reads any bytes.

A reader may raise `InputError` and nothing else, but for `deploy`, which knows no type of ours and
raises plain ValueErrors. Layouts with checksums or lengths are built around the bytes that are
tried, or nothing but the checksum would ever be tested.
"""

import contextlib
import io
import json
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import made
import numpy as np
import safetensors.numpy
import torch
from PIL import Image

from domino_jax.allocate import loss_table
from domino_jax.core import costs, published, scheme
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path
from domino_jax.core.scheme import NM
from domino_jax.data import check, images
from domino_jax.data import create as data_set
from domino_jax.deploy import folder as deployed
from domino_jax.deploy import tune
from domino_jax.models import decoder, decoder_config
from domino_jax.pytorch import exported, hugging_face, torch_file
from domino_jax.run import overrides, settings


class Target(NamedTuple):
    """Bytes that are read without an error, and what reads any."""

    seeds: list[bytes]
    read: Callable[[bytes], None]


_PLACE = tempfile.TemporaryDirectory(
    prefix="fuzz", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
)
PLACE = Path(_PLACE.name)
LAYERS = tuple(
    made.layer(name, (8, 4), Axes((), (), (0,), (1,)), 32, (1, 2, 4)) for name in ("a", "b/c")
)
SIGNATURES = [("stem", 3, 64, (7, 7)), ("fc", 512, 10, ())]


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Makes a reader of bytes of one of files."""
    path = PLACE / name

    def read_bytes(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return read_bytes


def text(*documents: object) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


# JSON and text.

SCHEME = {
    "format": 1,
    "config": {"search": {"m": 4}},
    "order": ["a", "b/c"],
    "layers": {"a": {"n": 1, "m": 4}, "b/c": {"n": 4, "m": 4}},
}
COSTS = {"a": {"1": 0.5, "2": 1, "4": 2.5}, "b/c": 3}
LOSSES = {
    "format": 1,
    "layers": {"a": {"1": 2.5, "2": 1, "4": 0}, "b/c": {"1": 1e3, "2": 0.5}},
}
PUBLISHED = [b"{'SparseConv0_3-64-(7, 7)': [16, 16], 'Linear0_512-10': [4, 16]}"]


def read_costs(path: Path) -> None:
    cost = costs.read_table(str(path), LAYERS)
    budget = costs.budget_of(LAYERS, 0.5, cost)
    costs.shown(budget.allowed)
    costs.kept_share(LAYERS, cost, {layer.name: NM(1, 4) for layer in LAYERS})


# Command lines: a line is a word.

WORDS = [
    b"--config.search.m=8\n--config.search.budget=227M MACs\n--anew",
    b"--config.search.rules=(('stem','flatten'),)\n--config.train.lr\n1e-3",
    b"--noconfig.init_head\n--config.init=a.pth\n--config.search.candidates=(1,2,16)",
    b"--config.search.nm=2:16\n--config.model.width=8\n--config.seed=3\n--config.data.name=a.b:c",
]


def read_words(data: bytes) -> None:
    words = data.decode("utf-8", errors="surrogateescape").split("\n")
    _, given = overrides.split(words)
    config = settings.defaults()
    overrides.apply(config, given, "configs/default.py")
    settings.check(config)


# Tensors. Of a .safetensors file the header is tried, its length in front and numbers behind.

TENSORS = {
    "a": np.arange(8, dtype=np.float32).reshape(2, 4),
    "b.c": np.ones(3, np.float16),
    "d": np.zeros((), np.int64),
}


def safe_headers() -> list[bytes]:
    whole = safetensors.numpy.save(TENSORS, {"format": "pt", "e": "a"})
    return [whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]]


def _numbers(header: bytes) -> int:
    """Returns how many bytes a header says are behind it; a few where that cannot be told."""
    try:
        offsets = re.findall(rb'"data_offsets":\[\d+,(\d{1,5})\]', header)
        return max(map(int, offsets))
    except ValueError:
        return 64


def read_safe(data: bytes) -> None:
    path = PLACE / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(_numbers(data)))
    for name, array in torch_file.read(path)[""].items():
        torch_file.as_array(path, name, array)
    exported.read_arrays(path)


def pickles() -> list[bytes]:
    tensors = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    tied = {"state_dict": {**tensors, "e": tensors["a"].T}, "epoch": 3}
    found = []
    for tree, options in (
        (tensors, {}),
        (tied, {}),
        (tied, {"_use_new_zipfile_serialization": False}),
    ):
        buffer = io.BytesIO()
        torch.save(tree, buffer, **options)
        if options:
            found.append(b"f" + buffer.getvalue())
        else:
            with zipfile.ZipFile(buffer) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                found.append(b"z" + archive.read(name))
    return found


def read_pickle(data: bytes) -> None:
    """Reads bytes as a file (first byte f), or as the pickle in an archive (any other)."""
    path = PLACE / "a.pth"
    if data[:1] == b"f":
        path.write_bytes(data[1:])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data[1:])
            archive.writestr("a/byteorder", "little")
            for number, array in enumerate(TENSORS.values()):
                archive.writestr(f"a/data/{number}", array.tobytes())
            archive.writestr("a/version", "3\n")
    for tensors in torch_file.read(path).values():
        for name, tensor in tensors.items():
            torch_file.as_array(path, name, tensor)


# Pictures.


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    found = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PCX", "PPM", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def read_picture(data: bytes) -> None:
    path = PLACE / "a.jpg"
    path.write_bytes(data)
    check.why_broken(str(path))
    with contextlib.suppress(InputError):
        images.evaluation_image(data, 8, 9)
    images.train_image(data, np.random.default_rng(0), 8)


# The folder of an export: the first byte says which of its files the rest is.

EXPORT = {
    "format": 1,
    "names": "pytorch",
    "dtype": "float32",
    "backend": "cutlass",
    "layers": {
        "a": {
            **{"weight": "a.weight", "jax": "a/kernel", "n": 1, "m": 2, "kind": "linear"},
            **{"shape": [4, 8], "kernel": [], "groups": 1},
            **{"pattern24": True, "sparse24": False, "why": "sizes"},
        }
    },
}


def export_folder() -> dict[str, bytes]:
    mask = np.tile(np.array([1, 0], np.uint8), (4, 4))
    weight = mask * np.arange(1, 9, dtype=np.float32)
    layers = {"a.weight": {"n": 1, "m": 2}}
    timing = {"ms": {"dense": 1.5, "cutlass": 1}, "runs": "cutlass", "why": ""}
    entry = {"layers": {"a": timing}, "model": {"dense": 1.5, "sparse": None}, "runs": "dense"}
    entry["backends"] = ["cutlass"]
    (document,) = text(_judged(weight))
    return {
        exported.DOCUMENT: document,
        exported.SCHEME: text({"format": 1, "order": list(layers), "layers": layers})[0],
        exported.WEIGHTS: safetensors.numpy.save({"a.weight": weight}),
        exported.MASKS: safetensors.numpy.save({"a.weight": mask}),
        "tuning.json": text({"format": 1, "entries": [entry]})[0],
    }


def _judged(weight: np.ndarray) -> dict:
    entry = EXPORT["layers"]["a"]
    pattern, sparse, why = exported.judge({"a.weight": weight}, entry, "float32", "cutlass")
    claim = {"pattern24": pattern, "sparse24": sparse, "why": why}
    return {**EXPORT, "layers": {"a": {**entry, **claim}}}


WHOLE = export_folder()


def read_export(name: str, data: bytes) -> None:
    with in_folder("export", WHOLE, name, data) as folder:
        if name == "tuning.json":
            as_input_error(lambda file: tune._entries(file, {"a": {}}), folder / name)
        else:
            as_input_error(deployed.read_folder, folder)
            exported.check(folder)


@contextlib.contextmanager
def in_folder(kind: str, whole: dict[str, bytes], name: str, data: bytes) -> Iterator[Path]:
    """Yields a folder of whole files, of which one holds data meanwhile."""
    folder = PLACE / kind
    if not folder.exists():
        folder.mkdir()
        for each, content in whole.items():
            (folder / each).write_bytes(content)
    (folder / name).write_bytes(data)
    try:
        yield folder
    finally:
        (folder / name).write_bytes(whole[name])


# A folder of Hugging Face.

DECODER = {
    **{"model_type": "llama", "vocab_size": 6, "hidden_size": 4, "intermediate_size": 4},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"max_position_embeddings": 8, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "beta_fast": 32, "mscale": 0.7}
LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
DECODERS = (
    DECODER,
    DECODER | {"rope_parameters": YARN},
    DECODER | {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 4}},
    DECODER | {"model_type": "gemma2", "query_pre_attn_scalar": 9, "layer_types": None},
    DECODER | {"model_type": "qwen3", "head_dim": 2, "layer_types": ["full_attention"] * 2},
    DECODER | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
)
SHARDS = ("a.safetensors", "b.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def llm_folder() -> dict[str, bytes]:
    config = decoder_config.read_config(DECODER)
    tree = leaves_by_path(decoder.shapes(config, np.float32))
    arrays = {}
    for name, place in hugging_face.places(config).items():
        shape = tree[place.path].shape[0 if place.index is None else 1 :]
        arrays[name] = np.ones(shape[::-1] if place.turned else shape, np.float16)
    names = list(arrays)
    where = {name: SHARDS[number % 2] for number, name in enumerate(names)}
    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<e>": 2}, "unk_token": "a"}
    tokenizer = {
        **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": []},
        **{"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None},
        **{"decoder": None, "model": words},
    }
    documents = (DECODER, {"metadata": {}, "weight_map": where}, tokenizer, {"eos_token": "<e>"})
    kept = (hugging_face.CONFIG, hugging_face.INDEX, *TOKENIZER)
    return {
        **dict(zip(kept, text(*documents), strict=True)),
        **{
            shard: safetensors.numpy.save({n: arrays[n] for n in names if where[n] == shard})
            for shard in SHARDS
        },
    }


WHOLE_LLM = llm_folder()


def read_llm(name: str, data: bytes) -> None:
    with in_folder("llm", WHOLE_LLM, name, data) as folder:
        if name in TOKENIZER:
            words = PLACE / "words.txt"
            words.write_text("a b " * 40)
            data_set("text", data_dir=str(words), workers=0, tokenizer=str(folder), length=2)
            return
        config = hugging_face.config_of(str(folder))
        is_config = name == hugging_face.CONFIG  # of another network, perhaps
        with contextlib.suppress(InputError) if is_config else contextlib.nullcontext():
            hugging_face.read_weights(folder, config, np.float32)


def as_input_error(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise InputError(str(error)) from error


TARGETS = {
    "scheme": Target(text(SCHEME), in_file("scheme.json", scheme.load)),
    "published": Target(
        PUBLISHED, in_file("a.txt", lambda path: published.load_published(path, SIGNATURES))
    ),
    "costs": Target(text(COSTS), in_file("costs.json", read_costs)),
    "losses": Target(
        text(LOSSES), in_file("losses.json", lambda path: loss_table.read_table(path, LAYERS))
    ),
    "words": Target(WORDS, read_words),
    "safetensors": Target(safe_headers(), read_safe),
    "pth": Target(pickles(), read_pickle),
    "pictures": Target(pictures(), read_picture),
}
# Each file of a folder by itself: what one reaches whole, the others reach with it.
TARGETS |= {
    f"export:{name}": Target([content], partial(read_export, name))
    for name, content in WHOLE.items()
}
TARGETS |= {
    f"llm:{name}": Target(
        text(*DECODERS) if name == hugging_face.CONFIG else [content], partial(read_llm, name)
    )
    for name, content in WHOLE_LLM.items()
    if name != SHARDS[1]
}

"""A folder of Hugging Face: its config, and its tensors by name, one file after the other.

The names of a decoder are made of its paths by one rule, both ways: `model/layers/mlp/up_proj/
kernel`, slice 3, is `model.layers.3.mlp.up_proj.weight`, transposed: (outputs, inputs) there.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.files import read_json
from domino_jax.core.paths import leaves_by_path, replace_leaves, require_known
from domino_jax.models import Model, decoder, plain
from domino_jax.models.decoder_config import DecoderConfig, read_config
from domino_jax.models.options import only_array, require_dtype
from domino_jax.pytorch import torch_file

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# What older versions of transformers saved and every version computes anew.
_COMPUTED = ".rotary_emb.inv_freq"
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_STACK = "model/layers/"


@dataclass(frozen=True)
class Place:
    """Where a tensor of a folder belongs.

    Attributes:
        path: of the parameter.
        index: of its slice; None where blocks have no part in it.
        turned: it is stored (outputs, inputs), the parameter is (inputs, outputs).
    """

    path: str
    index: int | None
    turned: bool


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Says whether a path is a folder of Hugging Face: one whose config.json names a model_type."""
    try:
        document = read_json(Path(path) / CONFIG) if str(path) else None
    except InputError:
        return False
    return isinstance(document, Mapping) and "model_type" in document


def name_of(path: str, index: int | None = None) -> str:
    """Returns the name in a folder of a parameter, or of a slice of it."""
    module, _, leaf = path.rpartition("/")
    if index is not None:
        module = f"{_STACK}{index}/{module.removeprefix(_STACK)}"
    return f"{module.replace('/', '.')}.{_LEAVES[leaf]}"


def places(config: DecoderConfig) -> dict[str, Place]:
    """Lists the tensors of a decoder: name in a folder -> its place here."""
    found = {}
    for path in leaves_by_path(decoder.shapes(config, np.float32)):
        turned = path.endswith("/kernel")
        for index in range(config.depth) if path.startswith(_STACK) else (None,):
            found[name_of(path, index)] = Place(path, index, turned)
    return found


def causal_lm(
    *,
    example: Any,
    classes: int,
    seed: int,
    folder: str = "",
    dtype: str | None = None,
    param_dtype: str = "float32",
) -> Model:
    """Makes the decoder of a folder with its weights; see `domino_jax.models.create`.

    Args:
        example: one integer array of tokens, [1, T].
        classes: different tokens in the data.
        seed: not used: the weights are those of the folder.
        folder: that `save_pretrained` wrote: config.json and safetensors.
        dtype: of the products: 'float32' or 'bfloat16' (norms, softmax and logits stay float32);
            None: that of the weights.
        param_dtype: of the weights: 'float32' or 'bfloat16'.

    Raises:
        InputError: one line; the folder cannot be read, is of an architecture that is not there, or
            does not fit the data.
    """
    del seed
    for each in (dtype, param_dtype):
        require_dtype(each)
    config = config_of(folder)
    array = only_array(example, 2, "a language model takes one integer array (1, positions)")
    if array.shape[1] > config.positions:
        raise InputError(
            f"data.length: expected at most the {config.positions} positions of {folder}, "
            f"got {array.shape[1]}"
        )
    if classes > config.vocabulary:
        raise InputError(
            f"{folder}: its embedding has {config.vocabulary} rows, the tokenizer of the data "
            f"{classes} tokens: take the tokenizer.json of this network"
        )

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        return decoder.logits(config, params, tokens, dtype=dtype)

    return plain(apply, read_weights(Path(folder), config, jnp.dtype(param_dtype)))


def config_of(folder: str) -> DecoderConfig:
    """Reads the config.json of a folder.

    Raises:
        InputError: one line: there is none, or it is of another kind of network.
    """
    path = Path(folder)
    if not folder or not path.is_dir():
        raise InputError(
            f"init: expected a folder that save_pretrained wrote (config.json, safetensors, "
            f"tokenizer.json), got {folder!r}{_advice(path)}"
        )
    try:
        return read_config(read_json(path / CONFIG))
    except InputError as error:
        raise InputError(
            f"{path / CONFIG}: {str(error).removeprefix(f'{path / CONFIG}: ')}"
        ) from None


def _advice(path: Path) -> str:
    """Says how to make a folder of what somebody may have instead."""
    if path.suffix == ".gguf":
        return (
            "; make one: AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME)"
            ".save_pretrained(DIR), and the same of AutoTokenizer (pip install gguf accelerate)"
        )
    if path.suffix in torch_file.SUFFIXES:
        return "; give the folder that holds this file"
    return ""


def files_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Lists the files of a folder's tensors, and which names its index says that each one holds.

    Returns:
        File -> names; no names where there is one file and no index.

    Raises:
        InputError: one line; there are no safetensors, a file is missing, or the index is broken.
    """
    if (folder / INDEX).is_file():
        document = read_json(folder / INDEX)
        where = document.get("weight_map") if isinstance(document, Mapping) else None
        if not isinstance(where, Mapping) or not all(map(_is_file_name, where.values())):
            raise InputError(
                f"{folder / INDEX}: expected a weight_map, name -> a .safetensors file of this "
                "folder"
            )
        files: dict[str, tuple[str, ...]] = {}
        for name, file in where.items():
            files[file] = (*files.get(file, ()), name)
        for file in files:
            if not (folder / file).is_file():
                kind = "no regular file" if (folder / file).exists() else "missing"
                raise InputError(f"{folder / file}: this shard is {kind}: {INDEX} names it")
        return files
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: ()}
    others = sorted(
        p.name for p in folder.iterdir() if p.suffix in (".gguf", ".bin", ".pth", ".pt")
    )
    advice = "; make them: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
    raise InputError(
        f"{folder}: expected {WEIGHTS} or {INDEX}, got "
        + (
            f"{others[0]}{_advice(Path(others[0])) if others[0].endswith('gguf') else advice}"
            if others
            else "neither"
        )
    )


def _is_file_name(file: Any) -> bool:
    """Says whether a file lies in the folder itself: export writes one of the same name."""
    return (
        isinstance(file, str)
        and file.isprintable()
        and Path(file).name == file
        and Path(file).suffix == ".safetensors"
    )


def shards(folder: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the files of a folder and their tensors, one file in memory at a time.

    Raises:
        InputError: one line; as `files_of`, a file is damaged, or the index says otherwise.
    """
    seen: set[str] = set()
    for file, names in files_of(folder).items():
        (arrays,) = torch_file.read(folder / file).values()
        if missing := sorted(set(names) - arrays.keys()):
            raise InputError(f"{folder / file}: {missing[0]} is missing: {INDEX} says it is there")
        if twice := sorted(seen & arrays.keys()):
            raise InputError(f"{folder / file}: {twice[0]} is in another shard too")
        seen |= arrays.keys()
        yield file, arrays


def read_weights(folder: Path, config: DecoderConfig, dtype: Any) -> Any:
    """Reads the weights of a folder, shard by shard.

    Args:
        folder: of Hugging Face.
        config: of its network.
        dtype: of the parameters.

    Returns:
        Nested dicts of arrays, as `decoder.shapes` describes them.

    Raises:
        InputError: one line; a file is missing or damaged, or a tensor is missing, too much, or of
            another shape or kind.
    """
    tree = decoder.shapes(config, dtype)
    _require_bounded(folder, tree)
    arrays = {path: np.empty(leaf.shape, dtype) for path, leaf in leaves_by_path(tree).items()}
    known = places(config)
    found: set[str] = set()
    heads: dict[str, str] = {}  # digests of what must be equal, and may lie in two files
    for file, tensors in shards(folder):
        fill = partial(_fill, arrays, known, folder / file)
        if config.tied:
            heads |= {name: _digest(tensors[name]) for name in (EMBEDDING, HEAD) if name in tensors}
            tensors.pop(HEAD, None)
        for name, tensor in tensors.items():
            if not name.endswith(_COMPUTED):
                fill(name, tensor)
                found.add(name)
        if len(set(heads.values())) > 1:
            raise InputError(
                f"{folder / file}: {HEAD} differs from {EMBEDDING}, to which it is tied"
            )
    if missing := [name for name in known if name not in found]:
        raise InputError(f"{folder}: {len(missing)} tensors are missing: {missing[0]}, …")
    # One after the other: no second copy of the whole network.
    return replace_leaves(tree, {path: jnp.asarray(arrays.pop(path)) for path in list(arrays)})


def _digest(tensor: np.ndarray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()
    return f"{tensor.dtype} {tensor.shape} {content}"


def _require_bounded(folder: Path, tree: Any) -> None:
    """Refuses a config of more weights than the files have bytes, before any are allocated."""
    claimed = sum(math.prod(leaf.shape) for leaf in leaves_by_path(tree).values())
    size = sum((folder / file).stat().st_size for file in files_of(folder))
    if claimed > size:
        raise InputError(
            f"{folder / CONFIG}: expected the sizes of the tensors in its safetensors, got "
            f"{claimed:,} weights where the files have {size:,} bytes"
        )


def _fill(
    arrays: Mapping[str, np.ndarray],
    known: Mapping[str, Place],
    file: Path,
    name: str,
    tensor: np.ndarray,
) -> None:
    """Puts a tensor where it belongs."""
    try:
        require_known([name], list(known), what="tensor")
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    place = known[name]
    whole = arrays[place.path]
    part = whole if place.index is None else whole[place.index]
    turned = tensor.T if place.turned else tensor
    if turned.shape != part.shape:
        expected = part.T.shape if place.turned else part.shape
        raise InputError(
            f"{file}: {name}: expected {list(expected)} by {CONFIG}, got {list(tensor.shape)}"
        )
    part[...] = torch_file.rounded(file, name, turned, part.dtype)

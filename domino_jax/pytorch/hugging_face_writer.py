"""Writes a sparse language model as the folder of Hugging Face that its dense weights came from.

Names, dtypes and files are those of that folder, and so is every bit of a weight that the run left
alone; all else in it, such as the config and the tokenizer, is copied. scheme.json says the N:M of
each matrix by its name there, and lists as `sparse24` those that the 2:4 kernels of GPUs take in 16
bits: in bfloat16, unless the folder is in float16.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from domino_jax.core import scheme
from domino_jax.core.errors import InputError, escaped
from domino_jax.core.layers import grouped
from domino_jax.core.scheme import NM
from domino_jax.deploy import sparse24
from domino_jax.pytorch import exported, hugging_face, semi_structured, torch_file, writer
from domino_jax.pytorch.document import Network

# Weights of other kinds would be the dense ones.
_WEIGHTS = (*torch_file.SUFFIXES, ".gguf", ".onnx", ".h5", ".msgpack")
_METADATA = {"format": "pt"}  # without which transformers refuses a file


def export(network: Network, out: Path) -> list[str]:
    """Writes the folder, whole or not at all.

    Args:
        network: of a run of `causal_lm`.
        out: folder to make.

    Returns:
        Lines that tell what was written.

    Raises:
        InputError: one line, and nothing is written: another network, `out` exists, the folder it
            came from is gone or changed, a weight does not fit the scheme or its dtype.
    """
    folder = network.options.get("folder")
    if not folder or not hugging_face.is_folder(folder):
        raise InputError(
            f"format hf: expected a run of causal_lm whose model.folder is there, got "
            f"{network.name} and {folder!r}"
        )
    params = writer.on_host(network.model.params)
    writer.sparse_masks(network, params)  # refuses weights that do not fit the scheme
    places = hugging_face.places(hugging_face.config_of(folder))
    names = {
        hugging_face.name_of(layer.path, layer.index): network.scheme[layer.name]
        for layer in grouped(network.layers)
    }
    runs = []
    with writer.whole_folder(out) as target:
        for file, tensors in hugging_face.shards(Path(folder)):
            arrays = {
                name: _written(params, places, name, tensor) for name, tensor in tensors.items()
            }
            exported.write_arrays(target / file, arrays, _METADATA)
            runs += [name for name in arrays if name in names and _runs(arrays[name], names[name])]
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and not path.name.endswith(_WEIGHTS):
                shutil.copyfile(path, target / path.name)
        takes = [name for name in names if name in runs]
        scheme.save(target / exported.SCHEME, names, model=network.name, sparse24=takes)
    sparse = sum(nm.n < nm.m for nm in names.values())
    return [
        f"{escaped(str(out))}: {len(names)} matrices, {sparse} of them sparse, {len(runs)} of "
        "these for 2:4 kernels: scheme.json"
    ]


def _runs(matrix: np.ndarray, nm: NM) -> bool:
    dtype = "float16" if matrix.dtype == np.float16 else "bfloat16"
    return not semi_structured.why_not(matrix, nm, dtype, sparse24.default_backend(dtype))


def _written(
    params: Mapping[str, np.ndarray],
    places: Mapping[str, hugging_face.Place],
    name: str,
    tensor: np.ndarray,
) -> np.ndarray:
    """Returns what goes into the place of a tensor of the dense folder.

    A weight that is as it was read keeps all its bits, also those that the parameter has no room
    for.
    """
    if name == hugging_face.HEAD and name not in places:  # a second name of the embedding
        name = hugging_face.EMBEDDING
    if name not in places:  # computed, no weight
        return tensor
    place = places[name]
    part = params[place.path] if place.index is None else params[place.path][place.index]
    part = part.T if place.turned else part
    with np.errstate(over="ignore"):  # what overflows is refused where it is written
        stays = (part != 0) & (tensor.astype(part.dtype) == part)
        return np.where(stays, tensor, part.astype(tensor.dtype))

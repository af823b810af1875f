"""The folder that export writes and PyTorch runs: its files, and whether they agree.

model.safetensors    PyTorch's names and layouts (our paths where PyTorch has no such network)
masks.safetensors    uint8, 1 where a weight is kept, of the layers with N < M
scheme.json          N:M by name of the weight
samples.safetensors  'inputs' as PyTorch wants them (whole numbers are int32) and their 'logits'
export.json          what the network is, and for each layer whether it can run sparse
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core import scheme
from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.core.files import read_json
from domino_jax.core.finite import require_finite
from domino_jax.core.scheme import NM, Scheme
from domino_jax.deploy import sparse24
from domino_jax.pytorch import semi_structured

FORMAT = 1
WEIGHTS, MASKS, SAMPLES = "model.safetensors", "masks.safetensors", "samples.safetensors"
SCHEME, DOCUMENT = "scheme.json", "export.json"
PACKED = ("weight", "in_proj_weight")  # how modules that can run sparse name their weight
# Of a layer in export.json: what is always there.
_ENTRY = {
    **{"weight": str, "jax": str, "kind": str, "why": str, "shape": list, "kernel": list},
    **{"n": int, "m": int, "groups": int, "pattern24": bool, "sparse24": bool},
}
Arrays = Mapping[str, np.ndarray]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        InputError: one line; there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read: {line}") from None


def write_arrays(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file; its writer stores other orders than C wrongly.

    Raises:
        InputError: an array is not finite.
    """
    from safetensors.numpy import save  # noqa: PLC0415

    require_finite(path.name, arrays)
    content = save(
        {name: np.asarray(array).copy(order="C") for name, array in arrays.items()}, metadata
    )
    path.write_bytes(content)  # `save_file` lets nobody but the owner read


def read_document(folder: Path) -> dict[str, Any]:
    """Reads export.json.

    Raises:
        InputError: one line; it is missing, broken, or of another format.
    """
    path = folder / DOCUMENT
    document = read_json(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not an export of format {FORMAT}")
    return document


def names_beside(path: Path) -> str:
    """Says whose names the weights of an export have, 'jax' or 'pytorch'; '' of another file."""
    if not (path.parent / DOCUMENT).is_file():
        return ""
    try:
        return str(read_document(path.parent).get("names", ""))
    except InputError:  # another program's
        return ""


def axes_of(entry: Mapping[str, Any]) -> Axes:
    """Returns the axes of the written weight of a layer in export.json."""
    if "axes" in entry:
        return Axes(**{part: tuple(axes) for part, axes in entry["axes"].items()})
    return Axes((), tuple(range(2, len(entry["shape"]))), (1,), (0,))


def layer_matrix(weight: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Returns the matrix [outputs, columns] of a layer, of its slice where it is in a stack."""
    axes = axes_of(entry)
    matrix = semi_structured.kernel_matrix(weight, axes)
    if not axes.stack:
        return matrix
    rows = int(np.prod([weight.shape[axis] for axis in axes.outputs], dtype=int))
    return matrix[rows * entry["index"] : rows * (entry["index"] + 1)]


def judge(
    weights: Arrays, entry: Mapping[str, Any], dtype: str, backend: str
) -> tuple[bool, bool, str]:
    """Judges one layer of export.json by its written weight.

    Returns:
        Whether its zeros are the kernels' pattern, whether it can run sparse as it is, and the
        reason why not ('' where it can).
    """
    matrix, nm = layer_matrix(weights[entry["weight"]], entry), NM(entry["n"], entry["m"])
    reason = semi_structured.why_not(matrix, nm, dtype, backend)
    if reason != "dense":
        reason = _no_product(entry) or reason
    return semi_structured.has_pattern(matrix, dtype), not reason, reason


def _no_product(entry: Mapping[str, Any]) -> str:
    """Says why a layer cannot be one product with a packed matrix, whatever its weights; or ''."""
    if entry["groups"] > 1:
        return f"grouped convolution ({entry['groups']} groups)"
    if entry["kind"] == "conv_transpose":
        return "transposed convolution, for which there is no sparse kernel"
    if entry["kind"] == "conv" and len(entry["kernel"]) != 2:
        return f"convolution along {len(entry['kernel'])} axes, not 2"
    own_name = "index" in entry  # a path of ours, which no module of PyTorch has
    last = entry["weight"].rpartition(".")[2]
    if not own_name and last not in PACKED:
        return f"no nn.Linear or nn.Conv2d keeps its weight as {last!r}"
    return ""


def check(folder: Path) -> dict[str, Any]:
    """Reads an export back and checks that its files agree with each other.

    Returns:
        The document of export.json.

    Raises:
        InputError: one line: a file cannot be read; the scheme, the masks or a claim does not fit
            the weights.
    """
    document = read_document(folder)
    weights, masks = read_arrays(folder / WEIGHTS), read_arrays(folder / MASKS)
    folder_scheme = scheme.load(folder / SCHEME)
    layers = _require_entries(folder / DOCUMENT, document, weights)
    _require_scheme(folder, folder_scheme, layers)
    _require_masks(folder, weights, masks, layers)
    for name, entry in layers.items():
        claim = entry["pattern24"], entry["sparse24"], entry["why"]
        truth = judge(weights, entry, document["dtype"], document["backend"])
        if claim != truth:
            raise InputError(
                f"{folder / DOCUMENT}: {name}: sparse24 is {claim[1]} ({claim[2] or 'can run'}) "
                f"there, but the weights say {truth[1]} ({truth[2] or 'can run'})"
            )
    return document


def _require_entries(path: Path, document: Mapping[str, Any], weights: Arrays) -> dict[str, Any]:
    """Returns the layers of export.json once each has the form that we write."""
    layers = document.get("layers")
    texts = all(isinstance(document.get(key), str) for key in ("dtype", "backend"))
    if not texts or not isinstance(layers, dict):
        raise InputError(f"{path}: expected a dtype, a backend and layers by name")
    if (backend := document["backend"]) not in sparse24.BACKENDS:
        raise InputError(
            f"{path}: expected a backend of {', '.join(sparse24.BACKENDS)}, got {backend!r}"
        )
    for name, entry in layers.items():
        if not isinstance(entry, dict) or not all(
            type(entry.get(key)) is kind for key, kind in _ENTRY.items()
        ):
            raise InputError(f"{path}: {name}: expected {', '.join(_ENTRY)}, got {entry!r}")
        weight = weights.get(entry["weight"])
        if weight is None or list(weight.shape) != entry["shape"]:
            raise InputError(
                f"{path}: {name}: no weight {entry['weight']} of this shape {entry['shape']}"
            )
        if not 1 <= entry["n"] <= entry["m"]:
            raise InputError(
                f"{path}: {name}: expected 1 <= n <= m, got {entry['n']} and {entry['m']}"
            )
        _require_axes(path, name, entry)
    return layers


def _require_axes(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Refuses axes that are not those of the weight, each once, and an index that is no slice."""
    index = entry.get("index")
    try:
        axes = axes_of(entry)
        each = [*axes.stack, *axes.window, *axes.inputs, *axes.outputs]
        slices = math.prod(entry["shape"][axis] for axis in axes.stack)
        fits = all(type(axis) is int for axis in each)
        fits &= sorted(each) == list(range(len(entry["shape"])))
        fits &= (type(index) is int and 0 <= index < slices) if axes.stack else index in (None, 0)
    except (TypeError, AttributeError, LookupError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: {name}: expected axes of a weight of shape {entry['shape']}, and the index "
            f"of a slice, got {entry.get('axes')} and {index}"
        )


def _require_scheme(folder: Path, folder_scheme: Scheme, layers: Mapping[str, Any]) -> None:
    entries = {scheme_name(entry): entry for entry in layers.values()}
    for name, nm in folder_scheme.items():
        entry = entries.get(name)
        written = None if entry is None else NM(entry["n"], entry["m"])
        if written != nm:
            raise InputError(
                f"{folder / SCHEME}: {name} is {nm} there, {written or 'absent'} in {DOCUMENT}"
            )
    for name, entry in entries.items():
        if name not in folder_scheme and entry["n"] < entry["m"]:
            raise InputError(f"{folder / SCHEME}: no entry for {name}")


def scheme_name(entry: Mapping[str, Any]) -> str:
    """Returns the name of a layer in scheme.json: its weight, with '#3' for slice 3 of a stack."""
    index = entry.get("index")
    return entry["weight"] if index is None else f"{entry['weight']}#{index}"


def _require_masks(folder: Path, weights: Arrays, masks: Arrays, layers: Mapping[str, Any]) -> None:
    path = folder / MASKS
    sparse = {e["weight"] for e in layers.values() if e["n"] < e["m"]}
    if different := sorted(sparse ^ masks.keys()):
        raise InputError(f"{path}: {different[0]} is masked in only one of {MASKS} and {DOCUMENT}")
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            raise InputError(f"{path}: {name} is no weight of this shape {mask.shape}")
        if mask.dtype != np.uint8 or (mask > 1).any():
            raise InputError(f"{path}: {name}: a mask is uint8, 0 or 1")
        if outside := np.count_nonzero((mask == 0) & (weights[name] != 0)):
            raise InputError(
                f"{path}: {name}: {outside} weights outside the mask are not zero in {WEIGHTS}"
            )
    for entry in layers.values():
        if entry["n"] < entry["m"]:
            kept = semi_structured.most_in_a_run(
                layer_matrix(masks[entry["weight"]], entry), entry["m"]
            )
            if kept > entry["n"]:
                raise InputError(
                    f"{path}: {scheme_name(entry)}: keeps {kept} of {entry['m']}, "
                    f"its scheme says {entry['n']}"
                )

"""The folder that `domino_jax.export` wrote: reading it, and putting its weights into a model."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .packing import as_matrix, follows


class Export(NamedTuple):
    """What `domino_jax.export` wrote: `layers` is export.json's, by module path."""

    folder: Path
    info: dict[str, Any]
    layers: dict[str, dict[str, Any]]
    weights: dict[str, Tensor]


def read_folder(folder: str | Path) -> Export:
    """Reads an export; a ValueError if it is foreign or damaged or its files disagree."""
    info = _read_json((folder := Path(folder)) / "export.json")
    layers = info.get("layers")
    if info.get("format") != 1 or not isinstance(layers, dict):
        raise ValueError(f"{folder / 'export.json'}: no export of format 1 (or of another program)")
    if info.get("names", "pytorch") != "pytorch":
        raise ValueError(f"{folder / 'export.json'}: has no PyTorch names; export with --names")
    weights, masks = (read_tensors(folder / f"{f}.safetensors") for f in ("model", "masks"))
    for name in (*layers, *weights, *masks):
        if not name.isprintable():  # it may be printed, and a terminal obeys some characters
            raise ValueError(f"{folder}: {escaped(name)}: a name that cannot be printed")
    for path, layer in layers.items():
        _require_layer(folder, path, layer, weights)
        if layer["n"] < layer["m"] and layer["weight"] not in masks:
            raise ValueError(f"{folder}: {path}: pruned, but masks.safetensors has no mask of it")
    for name, mask in masks.items():
        if name not in weights or mask.shape != weights[name].shape:
            raise ValueError(f"{folder}: {name}: the mask has no weights of its shape")
        if torch.any((mask == 0) & (weights[name] != 0)):
            raise ValueError(f"{folder}: {name}: weights disagree with masks.safetensors")
    return Export(folder, info, layers, weights)


def escaped(text: str) -> str:
    """Writes what a terminal may obey, or cannot show, by its number."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _require_layer(folder: Path, path: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
    kinds = {"weight": str, "jax": str, "n": int, "m": int, "sparse24": bool}
    if not isinstance(layer, dict) or any(type(layer.get(k)) is not t for k, t in kinds.items()):
        raise ValueError(f"{folder / 'export.json'}: {path}: wants {', '.join(kinds)}")
    candidates = layer.get("candidates", [])
    if not isinstance(candidates, list) or not all(type(n) is int and n > 0 for n in candidates):
        raise ValueError(f"{folder / 'export.json'}: {path}: candidates: expected counts of 1 up")
    if not 1 <= layer["n"] <= layer["m"]:
        raise ValueError(
            f"{folder / 'export.json'}: {path}: expected 1 <= n <= m, got {layer['n']}:{layer['m']}"
        )
    if layer["weight"] not in weights or not f"{layer['weight']}.".startswith(f"{path}."):
        raise ValueError(f"{folder}: {path}: model.safetensors has no {layer['weight']} of it")
    if layer["sparse24"] and not follows(as_matrix(weights[layer["weight"]]), 2, 4):
        raise ValueError(f"{folder}: {path}: export.json says 2:4, but the weights are not")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: broken JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return document


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; a ValueError if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None


def read_samples(folder: Path) -> dict[str, Tensor]:
    """Reads the held inputs [64, C, H, W] and their logits [64, classes] of an export.

    Raises:
        ValueError: the file is missing, damaged or has other tensors.
    """
    samples = read_tensors(folder / "samples.safetensors")
    shapes = [samples[name].shape[:1] for name in ("inputs", "logits") if name in samples]
    if len(shapes) != 2 or shapes[0] != shapes[1] or not sum(shapes[0]):
        raise ValueError(f"{folder / 'samples.safetensors'}: wants as many 'inputs' as 'logits'")
    return samples


def put(model: nn.Module, export: Export, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Loads the weights (strictly) and moves the model, batch norms in float32, channels-last.

    A tensor of the model that is tied to one in the export shares its memory and is loaded with it.

    Raises:
        ValueError: the weights are of another model.
    """
    own = model.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError("model: expected tensors with values, got some on the device meta")
    exported_memory = {_memory(own[name]) for name in export.weights if name in own}
    absent = [
        name
        for name, tensor in own.items()
        if name not in export.weights
        and not name.endswith("num_batches_tracked")
        and _memory(tensor) not in exported_memory
    ]
    wrong = [n for n, w in export.weights.items() if n not in own or own[n].shape != w.shape]
    if absent or wrong:
        raise ValueError(
            f"{export.folder}: of another model: {len(absent)} tensors absent {absent[:3]}, "
            f"{len(wrong)} unknown or of another shape {wrong[:3]}"
        )
    _require_kinds(model, export)
    model.load_state_dict(export.weights, strict=False)  # all that is missing is there, tied
    model.eval().requires_grad_(False).to(device)
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)
    channels_last: dict[str, Any] = {"memory_format": torch.channels_last}
    return model.to(**channels_last)


def _memory(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Says where a tensor lies: tied tensors lie in the same place, in the same way."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def module_path(layer: Mapping[str, Any]) -> str:
    """Names the module that owns the weight of a layer of export.json."""
    return layer["weight"].rpartition(".")[0]


def _require_kinds(model: nn.Module, export: Export) -> None:
    """Refuses modules that would read a convolution's weight as that of another kind."""
    for path, layer in export.layers.items():
        module = model.get_submodule(module_path(layer))
        other = isinstance(module, nn.modules.conv._ConvTransposeNd)
        kind = layer.get("kind")
        if isinstance(module, nn.modules.conv._ConvNd) and other != (kind == "conv_transpose"):
            raise ValueError(
                f"{export.folder}: {path}: expected a module for a {kind} weight, got "
                f"{type(module).__name__}"
            )


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that appears whole or not at all.

    Raises:
        ValueError: one line; it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)

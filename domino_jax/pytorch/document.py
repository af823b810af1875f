"""What export.json and scheme.json say of a network: the layers by PyTorch's names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core import scheme
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec, counted, grouped
from domino_jax.core.scheme import NM, Scheme
from domino_jax.models import Model
from domino_jax.pytorch import exported
from domino_jax.pytorch.layouts import Tensor


@dataclass(frozen=True)
class Network:
    """What is exported.

    Attributes:
        name: of the model in export.json.
        options: of the model.
        model: its apply, and the sparse params and running stats.
        layers: as `find_layers` gives them.
        scheme: N:M of the layers.
        inputs: of some held examples, examples along axis 0.
        known: PyTorch has this network (`deploy.networks`), so it gets PyTorch's names.
    """

    name: str
    options: Mapping[str, Any]
    model: Model
    layers: tuple[LayerSpec, ...]
    scheme: Scheme
    inputs: np.ndarray
    known: bool = True


def level_of(network: Network, layer: LayerSpec) -> NM:
    """Returns a layer's N:M, 1:1 where it has no groups."""
    return network.scheme.get(layer.name, NM(1, 1)) if not layer.reason else NM(1, 1)


def describe(
    network: Network,
    layout: tuple[Tensor, ...],
    arrays: Mapping[str, np.ndarray],
    *,
    classes: int,
    dtype: str,
    backend: str,
    by_torch: bool,
) -> dict[str, Any]:
    """Makes export.json.

    Args:
        network: what is written.
        layout: of all its leaves.
        arrays: as they are written: name -> array.
        classes: logits of an example.
        dtype: of the weights.
        backend: whose shape multiples count.
        by_torch: names and layouts are PyTorch's, not ours.
    """
    by_path = {t.path: t for t in layout}
    used = counted(network.layers)
    modules = Counter(_module(by_path[layer.path]) for layer in used)
    entries: dict[str, Any] = {}
    for layer in used:
        tensor = by_path[layer.path]
        entry = _entry(network, layer, tensor, by_torch=by_torch)
        entry["pattern24"], entry["sparse24"], entry["why"] = exported.judge(
            arrays, entry, dtype, backend
        )
        if entry["why"] == "dense" and layer.reason:
            entry["reason"] = layer.reason
        # An LSTM has several weights in one module; a weight of one's own may be in none.
        module = _module(tensor)
        by_torch_key = module if module and modules[module] == 1 else tensor.name
        entries[by_torch_key if by_torch else layer.name] = entry
    tokens = network.inputs.ndim < 4 and np.issubdtype(network.inputs.dtype, np.integer)
    return {
        "format": exported.FORMAT,
        "model": network.name,
        "model_options": dict(network.options),
        "classes": classes,
        "in_channels": None if tokens else network.inputs.shape[-1],
        "image": list(network.inputs.shape[1:3]) if network.inputs.ndim == 4 else None,
        "positions": network.inputs.shape[1] if tokens and network.inputs.ndim == 2 else None,
        "dtype": dtype,
        "backend": backend,
        "names": "pytorch" if by_torch else "jax",
        "folded": False,
        "layers": entries,
    }


def _module(tensor: Tensor) -> str:
    return tensor.name.rpartition(".")[0]


def _entry(network: Network, layer: LayerSpec, tensor: Tensor, *, by_torch: bool) -> dict[str, Any]:
    """Describes one layer, all but what is read off the written weights."""
    axes, nm = tensor.axes, level_of(network, layer)
    if axes is None:
        raise InputError(f"{layer.name}: is a layer only under the rules of the run")
    window = [tensor.shape[axis] for axis in axes.window]
    kind = ("conv_transpose" if layer.transposed else "conv") if window else "linear"
    entry: dict[str, Any] = {
        "weight": tensor.name,
        "kind": kind,
        "shape": list(tensor.shape),
        "kernel": window,
        "groups": layer.convolution_groups,
        "jax": layer.name,
        "n": nm.n,
        "m": nm.m,
        "candidates": list(layer.candidates),
    }
    if not by_torch or layer.transposed:
        entry |= {"axes": {part: list(of) for part, of in asdict(axes).items()}}
    if not by_torch:
        entry |= {"index": layer.index}
    return entry


def write_scheme(path: Path, network: Network, document: Mapping[str, Any]) -> None:
    """Writes the scheme of the grouped layers by the names of their written weights."""
    names = {e["jax"]: exported.scheme_name(e) for e in document["layers"].values()}
    renamed = {names[layer.name]: network.scheme[layer.name] for layer in grouped(network.layers)}
    scheme.save(path, renamed, model=network.name)

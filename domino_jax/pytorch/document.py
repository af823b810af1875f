"""What export.json and scheme.json say of a network: the layers by PyTorch's names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
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


def trace_of(network: Network) -> tuple[Any, Any, Any]:
    """Returns what `find_layers` takes: `apply(params, inputs)`, params, and one example."""

    def forward(params: Any, inputs: Any) -> Any:
        key = jax.random.key(0)  # drawn from by nothing in evaluation mode
        return network.model.apply(params, network.model.stats, inputs, train=False, key=key)[0]

    one = jax.ShapeDtypeStruct((1, *network.inputs.shape[1:]), network.inputs.dtype)
    return forward, network.model.params, one


def level_of(network: Network, spec: LayerSpec) -> NM:
    """Returns a layer's N:M, 1:1 where it has no groups."""
    return network.scheme.get(spec.name, NM(1, 1)) if not spec.reason else NM(1, 1)


def describe(
    network: Network,
    layout: tuple[Tensor, ...],
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: str,
    backend: str,
    by_torch: bool,
) -> dict[str, Any]:
    """Makes export.json.

    Args:
        network: what is written.
        layout: of all its leaves.
        arrays: as they are written: name -> array.
        dtype: of the weights.
        backend: whose shape multiples count.
        by_torch: names and layouts are PyTorch's, not ours.
    """
    by_path = {t.path: t for t in layout}
    layers: dict[str, Any] = {}
    for spec in counted(network.layers):
        entry = _entry(network, spec, by_path[spec.path], by_torch=by_torch)
        entry["pattern24"], entry["sparse24"], entry["why"] = exported.judge(
            arrays, entry, dtype, backend
        )
        if entry["why"] == "dense" and spec.reason:
            entry["reason"] = spec.reason
        key = spec.name if not by_torch else entry["weight"].rpartition(".")[0]
        layers[key] = entry
    shape = jax.eval_shape(*trace_of(network)).shape
    tokens = network.inputs.ndim < 4 and np.issubdtype(network.inputs.dtype, np.integer)
    return {
        "format": exported.FORMAT,
        "model": network.name,
        "model_options": dict(network.options),
        "classes": shape[-1],
        "in_channels": None if tokens else network.inputs.shape[-1],
        "image": list(network.inputs.shape[1:3]) if network.inputs.ndim == 4 else None,
        "positions": network.inputs.shape[1] if tokens and network.inputs.ndim == 2 else None,
        "dtype": dtype,
        "backend": backend,
        "names": "pytorch" if by_torch else "jax",
        "folded": False,
        "layers": layers,
    }


def _entry(
    network: Network,
    spec: LayerSpec,
    tensor: Tensor,
    *,
    by_torch: bool,
) -> dict[str, Any]:
    """Describes one layer, all but what is read off the written weights."""
    axes, nm = tensor.axes, level_of(network, spec)
    if axes is None:
        raise InputError(f"{spec.name}: is a layer only under the rules of the run")
    window = [tensor.shape[axis] for axis in axes.window]
    entry: dict[str, Any] = {
        "weight": tensor.name,
        "kind": "conv" if window else "linear",
        "shape": list(tensor.shape),
        "kernel": window,
        "groups": spec.convolution_groups,
        "jax": spec.name,
        "n": nm.n,
        "m": nm.m,
        "candidates": list(spec.candidates),
    }
    if not by_torch:
        entry |= {"axes": {part: list(of) for part, of in asdict(axes).items()}}
        entry |= {"index": spec.index}
    return entry


def write_scheme(path: Path, network: Network, document: Mapping[str, Any]) -> None:
    """Writes the scheme of the grouped layers by the names of their written weights."""
    names = {e["jax"]: exported.scheme_name(e) for e in document["layers"].values()}
    renamed = {names[layer.name]: network.scheme[layer.name] for layer in grouped(network.layers)}
    scheme.save(path, renamed, model=network.name)

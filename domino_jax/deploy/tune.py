"""Measures an exported network on this device, layer by layer, dense against sparse.

All times are milliseconds for one batch.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from . import structure
from .folder import Export, read_samples, write_whole
from .packing import Backend, dtype_name, packed

LOG = logging.getLogger("domino_jax.deploy")
MARGIN = 0.97  # a layer runs sparse where it takes less than this share of its dense time
SECONDS = 0.1  # of measuring a layer; five times as long for the whole model
ALONE = (nn.Linear, nn.modules.conv._ConvNd)  # take one input, so they can be timed alone
Entry = dict[str, Any]  # one measurement of a folder, as tuning.json holds it


def milliseconds(call: Callable[[], Any], seconds: float) -> float:
    """Measures the median time of a call, its work on the GPU included, after two calls."""
    with torch.inference_mode():
        for _ in range(2):
            call()
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=seconds).median * 1e3


def tune(
    model: nn.Module,
    export: Export,
    backends: Sequence[Backend],
    *,
    batch: int,
    compiled: bool = False,
    example: Tensor | None = None,
    seconds: float = SECONDS,
) -> Entry:
    """Packs the layers that run faster so, in place; nothing if the whole model is no faster.

    What was measured before, on the same device, dtype, batch and weights, is read from tuning.json
    instead.

    Args:
        model: with the weights of the export, from `structure.put`.
        export: from `structure.read_folder`.
        backends: sparse kernels to try.
        batch: examples at a time.
        compiled: the whole model is measured compiled.
        example: inputs, any number of examples; None: the folder's samples.
        seconds: to measure each time.

    Returns:
        'layers': path -> 'ms' {'dense' and each kernel: time}, 'runs' ('dense' or the kernel) and
        'why' ('' where sparse); 'model' {'dense', 'sparse'}: times; 'runs': 'dense' or 'sparse'.
    """
    first = next(p for p in model.parameters())
    weight = next(iter(export.layers.values()), {"weight": ""})["weight"]
    dtype = dict(model.named_parameters()).get(weight, first).dtype
    example = read_samples(export.folder)["inputs"] if example is None else example
    inputs = moved(example[torch.arange(batch) % len(example)], first.device, dtype)
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    key = _key(export, inputs, dtype, backends, compiled)
    backend_by_name = {backend.name: backend for backend in backends}
    file = export.folder / "tuning.json"
    entries = _entries(file, export.layers)
    entry = next((e for e in entries if all(e.get(k) == v for k, v in key.items())), None)
    if entry is None:
        entry = key | _measure(model, export, backends, inputs, compiled, seconds=seconds)
        others = [e for e in entries if any(e.get(k) != v for k, v in key.items())]
        text = (
            json.dumps({"format": 1, "entries": [*others, entry]}, indent=1, allow_nan=False) + "\n"
        )
        try:
            write_whole(file, text)
        except ValueError as error:  # a deployment may be read-only: measured again next time
            LOG.warning("%s", error)
    if entry["runs"] == "sparse":
        structure.split_attention(model, export)
        structure.replace(model, _sparse_backends(model, export, entry["layers"], backend_by_name))
    return entry


def moved(inputs: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Leaves integers, such as the numbers of words, what they are."""
    return inputs.to(device, dtype if inputs.is_floating_point() else None)


def _key(
    export: Export,
    inputs: Tensor,
    dtype: torch.dtype,
    backends: Sequence[Backend],
    compiled: bool,
) -> Entry:
    """Says what must agree for a measurement to hold."""
    cuda = inputs.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(inputs.device) if cuda else "cpu",
        "torch": str(torch.__version__),
        "dtype": dtype_name(dtype),
        "inputs": list(inputs.shape),
        "compiled": compiled,
        "backends": [backend.name for backend in backends],
        "export": hashlib.sha256((export.folder / "export.json").read_bytes()).hexdigest(),
    }


def _entries(file: Path, layers: Mapping[str, Any]) -> list[Entry]:
    """Reads what was measured; a ValueError if it is damaged, or of other layers."""
    if not file.exists():
        return []
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format"] == 1 and all(
            _is_entry(entry, layers) for entry in document["entries"]
        ):
            return list(document["entries"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{file}: damaged; delete it to measure again")


def _is_entry(entry: Any, layers: Mapping[str, Any]) -> bool:
    """Says whether an entry has the form that `_measure` makes; a TypeError or KeyError: no."""
    model, kernels = entry["model"], {"dense", *entry["backends"]}
    return (
        _is_time(model["dense"])
        and (model["sparse"] is None or _is_time(model["sparse"]))
        and entry["runs"] in ("dense", "sparse")
        and entry["layers"].keys() <= layers.keys()
        and all(_is_timing(timing, kernels) for timing in entry["layers"].values())
    )


def _is_timing(timing: Any, kernels: set[str]) -> bool:
    return (
        timing["runs"] in kernels
        and isinstance(timing["why"], str)
        and timing["why"].isprintable()
        and timing["ms"].keys() <= kernels
        and all(map(_is_time, timing["ms"].values()))
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _measure(
    model: nn.Module,
    export: Export,
    backends: Sequence[Backend],
    inputs: Tensor,
    compiled: bool,
    *,
    seconds: float,
) -> Entry:
    def whole() -> float:
        run = torch.compile(model) if compiled else model
        return milliseconds(lambda: run(inputs), 5 * seconds)

    dense = whole()
    split = structure.split_attention(model, export)
    layers = _layers(model, export, backends, inputs, seconds)
    backend_by_path = _sparse_backends(
        model, export, layers, {backend.name: backend for backend in backends}
    )
    before = structure.replace(model, backend_by_path)
    sparse = whole() if backend_by_path else None
    for path, module in (before | split).items():
        if not any(path.startswith(f"{above}.") for above in split):
            structure.set_module(model, path, module)
    dense = min(dense, whole()) if backend_by_path else dense  # once more: clocks drift
    runs = "sparse" if sparse is not None and sparse < dense else "dense"
    return {"layers": layers, "model": {"dense": dense, "sparse": sparse}, "runs": runs}


def _layers(
    model: nn.Module,
    export: Export,
    backends: Sequence[Backend],
    inputs: Tensor,
    seconds: float,
) -> dict[str, Entry]:
    """Times every layer of the export alone, on inputs of the shapes that it gets.

    A layer whose weights are no sparse pattern is timed with the largest of them, for cost tables.
    """
    paths = {name: structure.product_path(model, layer) for name, layer in export.layers.items()}
    calls = _calls(model, list(paths.values()), inputs)
    entry_by_layer: dict[str, Entry] = {}
    for name, path in paths.items():
        times = _times(model, name, path, calls[path], backends, seconds)
        reason = structure.why_not_packed(model, path, export.layers[name])
        best = min(times, key=lambda kernel: times[kernel]) if times else "dense"
        if not times:
            reason = structure.why_dense(model, path) or "not used"
        elif not reason and (best == "dense" or times[best] >= MARGIN * times["dense"]):
            reason = "no faster" if len(times) > 1 else "no sparse kernel here"
        entry_by_layer[name] = {"ms": times, "runs": "dense" if reason else best, "why": reason}
    return entry_by_layer


def _times(
    model: nn.Module,
    name: str,
    path: str,
    calls: Sequence[Any],
    backends: Sequence[Backend],
    seconds: float,
) -> dict[str, float]:
    """Times one module, dense and with each kernel that takes it; {} where it cannot be timed."""
    module = model.get_submodule(path)
    if not calls or not isinstance(module, ALONE):
        return {}
    times = {"dense": _time(module, calls, seconds)}
    for backend in () if structure.why_dense(model, path) else backends:
        try:
            times[backend.name] = _time(packed(module, backend), calls, seconds)
        except RuntimeError as error:  # of one shape, or out of memory
            reason = str(error).splitlines()[0]
            LOG.warning("%s: not with %s: %s", name, backend.name, reason)
    return times


def _sparse_backends(
    model: nn.Module,
    export: Export,
    layers: Mapping[str, Entry],
    backend_by_name: Mapping[str, Backend],
) -> dict[str, Backend]:
    return {
        structure.product_path(model, export.layers[name]): backend_by_name[layer["runs"]]
        for name, layer in layers.items()
        if layer["runs"] != "dense"
    }


def _calls(model: nn.Module, paths: Sequence[str], inputs: Tensor) -> dict[str, list[Any]]:
    """Lists shape, strides, dtype and device of the inputs of each call of the modules."""
    calls: dict[str, list[Any]] = {path: [] for path in paths}

    def hook(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            x = [*args, *options.values()][0]
            calls[path].append((x.shape, x.stride(), x.dtype, x.device))

        return note

    modules = ((path, model.get_submodule(path)) for path in calls)
    hooks = [m.register_forward_pre_hook(hook(p), with_kwargs=True) for p, m in modules]
    try:
        with torch.inference_mode():
            model(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return calls


def _time(module: nn.Module, calls: Sequence[Any], seconds: float) -> float:
    inputs = [torch.empty_strided(s, t, dtype=d, device=v).normal_() for s, t, d, v in calls]
    return milliseconds(lambda: [module(x) for x in inputs], seconds)

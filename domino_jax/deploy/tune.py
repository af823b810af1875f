"""Measures an exported network on this device, layer by layer, dense against sparse; PyTorch alone.

`tune` is `runtime.load(..., autotune=True)`; `main` is the command line of that file. Goes
with `runtime.py` wherever that is copied. All times are milliseconds for one batch.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

if __package__:
    from domino_jax.deploy import runtime
else:
    import runtime  # type: ignore[import-not-found, no-redef]

MARGIN = 0.97  # a layer runs sparse where it takes less than this share of its dense time
SECONDS = 0.1  # of measuring a layer; five times as long for the whole model
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of the largest logit
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
    export: runtime.Export,
    backends: Sequence[runtime.Backend],
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
        model: with the weights of the export, from `runtime.put`.
        export: from `runtime.read_folder`.
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
    example = samples(export.folder)["inputs"] if example is None else example
    inputs = _moved(example[torch.arange(batch) % len(example)], first.device, dtype)
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    key = _key(export, inputs, backends, compiled)
    known = {backend.name: backend for backend in backends}
    file = export.folder / "tuning.json"
    entries = _entries(file)
    found = next((e for e in entries if all(e.get(k) == v for k, v in key.items())), None)
    if found is None:
        found = key | _measure(model, export, backends, inputs, compiled, seconds=seconds)
        others = [e for e in entries if any(e.get(k) != v for k, v in key.items())]
        text = json.dumps({"format": 1, "entries": [*others, found]}, indent=1) + "\n"
        try:
            file.write_text(text)
        except OSError as error:  # a deployment may be read-only: measured again next time
            runtime.LOG.warning("%s: %s", file, error.strerror)
    if found["runs"] == "sparse":
        runtime.split_attention(model, export)
        runtime.replace(model, _chosen(model, found["layers"], known))
    return found


def _moved(inputs: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Leaves integers, such as the numbers of words, what they are."""
    return inputs.to(device, dtype if inputs.is_floating_point() else None)


def _key(
    export: runtime.Export, inputs: Tensor, backends: Sequence[runtime.Backend], compiled: bool
) -> Entry:
    """Says what must agree for a measurement to hold."""
    cuda = inputs.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(inputs.device) if cuda else "cpu",
        "torch": str(torch.__version__),
        "dtype": str(inputs.dtype).removeprefix("torch."),
        "inputs": list(inputs.shape),
        "compiled": compiled,
        "backends": [backend.name for backend in backends],
        "export": hashlib.sha256((export.folder / "export.json").read_bytes()).hexdigest(),
    }


def _entries(file: Path) -> list[Entry]:
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text())
        if found["format"] == 1 and all(isinstance(e, dict) for e in found["entries"]):
            return list(found["entries"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{file}: damaged; delete it to measure again")


def _measure(
    model: nn.Module,
    export: runtime.Export,
    backends: Sequence[runtime.Backend],
    inputs: Tensor,
    compiled: bool,
    *,
    seconds: float,
) -> Entry:
    def whole() -> float:
        run = torch.compile(model) if compiled else model
        return milliseconds(lambda: run(inputs), 5 * seconds)

    dense = whole()
    split = runtime.split_attention(model, export)
    layers = _layers(model, export, backends, inputs, seconds)
    chosen = _chosen(model, layers, {backend.name: backend for backend in backends})
    before = runtime.replace(model, chosen)
    sparse = whole() if chosen else None
    for path, module in (before | split).items():
        if not any(path.startswith(f"{above}.") for above in split):
            runtime.set_module(model, path, module)
    dense = min(dense, whole()) if chosen else dense  # once more: clocks drift
    runs = "sparse" if sparse is not None and sparse < dense else "dense"
    return {"layers": layers, "model": {"dense": dense, "sparse": sparse}, "runs": runs}


def _layers(
    model: nn.Module,
    export: runtime.Export,
    backends: Sequence[runtime.Backend],
    inputs: Tensor,
    seconds: float,
) -> dict[str, Entry]:
    """Times every layer of the export alone, on inputs of the shapes that it gets.

    A layer whose weights are no sparse pattern is timed with the largest of them, for cost tables.
    """
    paths = {name: runtime.product_path(model, name) for name in export.layers}
    calls = _calls(model, list(paths.values()), inputs)
    found: dict[str, Entry] = {}
    for name, path in paths.items():
        module = model.get_submodule(path)
        times = {"dense": _time(module, calls[path], seconds)} if calls[path] else {}
        if calls[path] and not runtime.why_dense(model, path):
            for backend in backends:
                try:
                    sparse = runtime.packed(module, backend)
                    times[backend.name] = _time(sparse, calls[path], seconds)
                except RuntimeError as error:  # of one shape, or out of memory
                    fault = str(error).splitlines()[0]
                    runtime.LOG.warning("%s: not with %s: %s", name, backend.name, fault)
        why = runtime.why_not_packed(model, path, export.layers[name])
        best = min(times, key=lambda kernel: times[kernel]) if times else "dense"
        if not times:
            why = "not used"
        elif not why and (best == "dense" or times[best] >= MARGIN * times["dense"]):
            why = "no faster" if len(times) > 1 else "no sparse kernel here"
        found[name] = {"ms": times, "runs": "dense" if why else best, "why": why}
    return found


def _chosen(
    model: nn.Module, layers: Mapping[str, Entry], known: Mapping[str, runtime.Backend]
) -> dict[str, runtime.Backend]:
    return {
        runtime.product_path(model, name): known[layer["runs"]]
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


def samples(folder: Path) -> dict[str, Tensor]:
    """Reads the held inputs [64, C, H, W] and their logits [64, classes] of an export.

    Raises:
        ValueError: the file is missing, damaged or has other tensors.
    """
    found = runtime.read_tensors(folder / "samples.safetensors")
    if not {"inputs", "logits"} <= set(found) or len(found["inputs"]) != len(found["logits"]):
        raise ValueError(f"{folder / 'samples.safetensors'}: wants as many 'inputs' as 'logits'")
    return found


def parity(model: nn.Module, held: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[float, float]:
    """Compares with stored logits: largest difference over the largest logit, share of equal top-1.

    Raises:
        ValueError: the logits have another shape.
    """
    device = next(p for p in model.parameters()).device
    with torch.inference_mode():
        logits = model(_moved(held["inputs"], device, dtype)).cpu().double()
    wanted = held["logits"].double()
    if logits.shape != wanted.shape:
        raise ValueError(f"samples: logits of shape {[*wanted.shape]}, got {[*logits.shape]}")
    apart = (logits - wanted).abs().max() / wanted.abs().max()
    return float(apart), float((logits.argmax(-1) == wanted.argmax(-1)).double().mean())


def costs(export: runtime.Export, entry: Entry, counts: Sequence[int] = ()) -> dict[str, Any]:
    """Makes the table {JAX path: {n: time}} that `config.search.objective` reads.

    An n that any kernel takes has its layer's best time, every other n the dense one: a layer that
    cannot run sparse costs the same for all of them.

    Args:
        export: the export.
        entry: from `tune`.
        counts: candidates of the next search, besides those of the last and the powers of two.
    """
    table: dict[str, Any] = {}
    for name, layer in export.layers.items():
        times = entry["layers"][name]["ms"]
        m = layer["m"] if layer["m"] > 1 else max(known["m"] for known in export.layers.values())
        powers = [2**i for i in range(m.bit_length()) if 2**i < m]
        table[layer["jax"]] = {
            str(n): min(times.values()) if _packs(n, m, entry["dtype"]) else times["dense"]
            for n in sorted({*powers, *counts, *layer.get("candidates", ()), layer["n"], m})
            if times
        }
    return {path: row for path, row in table.items() if row}


def _packs(n: int, m: int, dtype: str) -> bool:
    """Says whether any n of m are a pattern of the kernels."""
    return (n == 1 and m % 2 == 0) or (n == 2 and m % 4 == 0 and dtype != "float32")


def table(export: runtime.Export, entry: Entry) -> str:
    """Writes the times of an export as a Markdown table."""
    lines = ["| layer | N:M | ms dense | ms sparse | runs |", "|---|---|---|---|---|"]
    for name, found in entry["layers"].items():
        layer, times = export.layers[name], found["ms"]
        sparse = [time for kernel, time in times.items() if kernel != "dense"]
        runs = f"dense: {found['why']}" if found["why"] else found["runs"]
        columns = (_ms(times.get("dense")), _ms(min(sparse, default=None)), runs)
        lines.append(f"| {name} | {layer['n']}:{layer['m']} | {' | '.join(columns)} |")
    whole = entry["model"]
    columns = (_ms(whole["dense"]), _ms(whole["sparse"]), entry["runs"])
    return "\n".join([*lines, f"| whole model | | {' | '.join(columns)} |"])


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{time:.3f}"


def _build(name: str, export: runtime.Export) -> nn.Module:
    """Makes the model of an export, or that of 'module:function'.

    Raises:
        ValueError: no such model.
    """
    info = export.info
    try:
        if ":" in name:
            sys.path.append(str(Path.cwd()))
            module, _, function = name.partition(":")
            return cast(nn.Module, getattr(import_module(module), function)())
        return cast(nn.Module, runtime.beside("networks").of_export(info, name))
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"model {name or info.get('model')!r}: {error}; --model=module:function makes your own"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks a folder: prints parity and times. Returns 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="runtime.py", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--check", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--costs", metavar="FILE", type=Path, help="writes {JAX path: {n: ms}}")
    parser.add_argument("--candidates", default="", help="for --costs: 2,4; besides powers of two")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, help="default: as exported; float32 on a CPU")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--model", default="", help="one of ours, or module:function")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to measure each time")
    try:
        return _check(parser.parse_args(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check(flags: argparse.Namespace) -> int:
    export = runtime.read_folder(flags.check)
    held = samples(export.folder)
    counts = [int(n) for n in flags.candidates.split(",") if n]
    device, exported = torch.device(flags.device), export.info.get("dtype", "float32")
    name = flags.dtype or (exported if device.type == "cuda" else "float32")
    dtype = DTYPES[name]
    model = runtime.put(_build(flags.model, export), export, device, dtype)
    allowed = TOLERANCE[name]  # the stored logits are those of the weights as they were rounded
    dense = parity(model, held, dtype)
    print(
        f"dense against stored logits: {dense[0]:.1e} (at most {allowed:g}), top-1 {dense[1]:.4f}"
    )
    backends, why = runtime.working_backends(device, dtype)
    if not backends:
        print(f"runs dense, with the zeros in place: {why}")
    options = {"batch": flags.batch, "compiled": flags.compile, "seconds": flags.seconds}
    entry = tune(model, export, backends, **options)
    sparse = parity(model, held, dtype)
    print(f"as it runs: {sparse[0]:.1e}, top-1 {sparse[1]:.4f}\n\n{table(export, entry)}")
    if flags.costs:
        flags.costs.write_text(json.dumps(costs(export, entry, counts), indent=1) + "\n")
    if not max(dense[0], sparse[0]) <= allowed:
        raise ValueError(f"{export.folder}: logits differ by more than {allowed:g}")
    return 0

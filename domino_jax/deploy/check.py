"""The command line: compares an export with its stored logits and prints times of its layers."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from . import networks, sparse24
from .folder import Export, escaped, put, read_folder, read_samples, write_whole
from .kernels import device_of, working_backends
from .tune import SECONDS, Entry, moved, tune

TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of the largest logit


def parity(
    model: nn.Module, samples: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[float, float]:
    """Compares with stored logits: largest difference over the largest logit, share of equal top-1.

    Raises:
        ValueError: the model cannot take the inputs, or the logits have another shape.
    """
    device = next(p for p in model.parameters()).device
    inputs = moved(samples["inputs"], device, dtype)
    try:
        with torch.inference_mode():
            logits = model(inputs).cpu().double()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"samples: the model cannot take inputs of shape {[*inputs.shape]}: {cause}"
        ) from None
    stored = samples["logits"].double()
    if logits.shape != stored.shape:
        raise ValueError(f"samples: logits of shape {[*stored.shape]}, got {[*logits.shape]}")
    apart = (logits - stored).abs().max() / stored.abs().max()
    return float(apart), float((logits.argmax(-1) == stored.argmax(-1)).double().mean())


def costs(export: Export, entry: Entry, counts: Sequence[int] = ()) -> dict[str, Any]:
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
            str(n): min(times.values())
            if sparse24.always_fits(n, m, entry["dtype"])
            else times["dense"]
            for n in sorted({*powers, *counts, *layer.get("candidates", ()), layer["n"], m})
            if times
        }
    return {path: row for path, row in table.items() if row}


def table(export: Export, entry: Entry) -> str:
    """Writes the times of an export as a Markdown table."""
    lines = ["| layer | N:M | ms dense | ms sparse | runs |", "|---|---|---|---|---|"]
    for name, timing in entry["layers"].items():
        layer, times = export.layers[name], timing["ms"]
        sparse = [time for kernel, time in times.items() if kernel != "dense"]
        runs = f"dense: {timing['why']}" if timing["why"] else timing["runs"]
        columns = (_ms(times.get("dense")), _ms(min(sparse, default=None)), runs)
        lines.append(f"| {name} | {layer['n']}:{layer['m']} | {' | '.join(columns)} |")
    whole = entry["model"]
    columns = (_ms(whole["dense"]), _ms(whole["sparse"]), entry["runs"])
    return "\n".join([*lines, f"| whole model | | {' | '.join(columns)} |"])


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{time:.3f}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line and exits."""
        print(f"error: {escaped(message)}", file=sys.stderr)
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks a folder: prints parity and times. Returns 0, or 1 with one line on stderr."""
    parser = _Parser(prog="python -m deploy", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--check", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--costs", metavar="FILE", type=Path, help="writes {JAX path: {n: ms}}")
    parser.add_argument("--candidates", default="", help="for --costs: 2,4; besides powers of two")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--dtype", choices=sparse24.DTYPES, help="default: as exported; float32 on a CPU"
    )
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--model", default="", help="one of ours, or module:function")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to measure each time")
    try:
        return _check(parser.parse_args(arguments))
    except torch.OutOfMemoryError:
        print("error: not enough GPU memory: choose a smaller --batch", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
    return 1


def _check(flags: argparse.Namespace) -> int:
    counts = _require_flags(flags)
    device = device_of(flags.device)
    export = read_folder(flags.check)
    samples = read_samples(export.folder)
    exported = export.info.get("dtype", "float32")
    name = flags.dtype or (exported if device.type == "cuda" else "float32")
    if name not in sparse24.DTYPES:
        raise ValueError(f"{export.folder}: dtype: expected one of {sparse24.DTYPES}, got {name!r}")
    dtype = getattr(torch, name)
    model = put(_build(flags.model, export), export, device, dtype)
    allowed = TOLERANCE[name]  # the stored logits are those of the weights as they were rounded
    dense = parity(model, samples, dtype)
    print(
        f"dense against stored logits: {dense[0]:.1e} (at most {allowed:g}), top-1 {dense[1]:.4f}"
    )
    backends, reason = working_backends(device, dtype)
    if not backends:
        print(f"runs dense, with the zeros in place: {reason}")
    options = {"batch": flags.batch, "compiled": flags.compile, "seconds": flags.seconds}
    entry = tune(model, export, backends, **options)
    sparse = parity(model, samples, dtype)
    print(f"as it runs: {sparse[0]:.1e}, top-1 {sparse[1]:.4f}\n\n{table(export, entry)}")
    if flags.costs:
        write_whole(
            flags.costs, json.dumps(costs(export, entry, counts), indent=1, allow_nan=False) + "\n"
        )
    if not max(dense[0], sparse[0]) <= allowed:
        raise ValueError(f"{export.folder}: logits differ by more than {allowed:g}")
    return 0


def _require_flags(flags: argparse.Namespace) -> list[int]:
    """Refuses values that no run can have; returns the candidates.

    Raises:
        ValueError: one line.
    """
    if flags.batch < 1:
        raise ValueError(f"--batch: expected 1 or more examples, got {flags.batch}")
    if not 0 < flags.seconds < float("inf"):
        raise ValueError(f"--seconds: expected a time above 0, got {flags.seconds}")
    words = [word for word in flags.candidates.split(",") if word]
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"--candidates: expected counts such as 2,4, got {flags.candidates!r}")
    if flags.costs and (flags.costs.is_dir() or not flags.costs.absolute().parent.is_dir()):
        raise ValueError(f"--costs: expected a file in a folder that exists, got {flags.costs}")
    return [int(word) for word in words]


def _build(name: str, export: Export) -> nn.Module:
    """Makes the model of an export, or that of 'module:function'.

    Raises:
        ValueError: no such model.
    """
    if ":" in name:
        return _made(name)
    try:
        return networks.of_export(export.info, name)
    # What a network of PyTorch raises for sizes that it cannot have.
    except (AttributeError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        cause = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"model {name or export.info.get('model')!r}: {type(error).__name__} {cause}; "
            "--model=module:function makes your own"
        ) from None


def _made(name: str) -> nn.Module:
    sys.path.insert(0, str(Path.cwd()))  # before this folder, if a file of it was run
    module, _, function = name.partition(":")
    try:
        model = getattr(import_module(module), function)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's module does, sys.exit too
        cause = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"--model={name}: {type(error).__name__}: {cause}; --model=module:function makes "
            "your own torch.nn.Module, without arguments"
        ) from None
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model={name}: expected a torch.nn.Module, got a {type(model).__name__}"
        )
    return model

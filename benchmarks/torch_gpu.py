"""Times dense against 2:4 on this GPU, by layer and for whole models: the table of RESULTS.md.

    python benchmarks/torch_gpu.py > table.md

ResNet-50 at 224x224 and the linear layers of a ViT-B (12 blocks, 197 positions of 768 channels),
random weights, 2:4 wherever the kernels take it (the stem of ResNet-50 is dense). Each is exported
as `domino_jax.export` would, and loaded with `autotune`; `packed` is the whole model with every
layer packed that is faster alone, and `runs` what `load` keeps. About five minutes on a GPU; needs
torch and safetensors, no JAX. `--smoke` runs small networks on a CPU, where nothing is packed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

# At the end: this folder has modules of the names of standard ones.
sys.path.append(str(Path(__file__).parents[1] / "domino_jax"))
from deploy import check, kernels, networks, packing, tune  # type: ignore[import-not-found]
from deploy import folder as exported


class Stack(nn.Module):
    """The linear layers of a vision transformer, without its attention products."""

    def __init__(self, blocks: int = 12, size: int = 768) -> None:
        super().__init__()
        sizes = {"qkv": (size, 3 * size), "proj": (size, size)}
        sizes |= {"fc1": (size, 4 * size), "fc2": (4 * size, size)}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*shape) for name, shape in sizes.items()})
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, positions, size] to their mean [B, size]."""
        for block in cast(Iterable[nn.ModuleDict], self.blocks):
            normal = functional.layer_norm(x, x.shape[-1:])
            x = x + block["proj"](block["qkv"](normal)[..., : x.shape[-1]])
            normal = functional.layer_norm(x, x.shape[-1:])
            x = x + block["fc2"](functional.gelu(block["fc1"](normal)))
        return x.mean(1)


def export(folder: Path, model: nn.Module, shape: tuple[int, ...], device: str) -> Path:
    """Prunes a model to 2:4, but for a first convolution, and writes it as an export.

    Args:
        folder: to make.
        model: changed in place.
        shape: of one example.
        device: to compute the stored logits on, in float32.
    """
    layers: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            m = 1 if path == "conv1" else 4
            if m == 4:
                window = (*weight.shape[2:], weight.shape[1])
                pruned = packing.pruned(packing.as_matrix(weight), 2, 4)
                weight.copy_(pruned.unflatten(1, window).movedim(-1, 1))
                masks[f"{path}.weight"] = (weight != 0).to(torch.uint8).contiguous()
            layers[path] = {
                "weight": f"{path}.weight",
                "jax": path,
                "n": 2 if m == 4 else 1,
                "m": m,
                "sparse24": m == 4,
            }
    inputs = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model.eval().to(device)(inputs.to(device)).cpu()
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.cpu().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    save_file(masks, folder / "masks.safetensors")
    save_file({"inputs": inputs, "logits": logits}, folder / "samples.safetensors")
    (folder / "export.json").write_text(json.dumps({"format": 1, "layers": layers}))
    return folder


def measure(
    make: Any, folder: Path, dtype: str, batch: int, flags: argparse.Namespace
) -> tuple[dict[str, Any], float]:
    """Loads an export with autotune; returns what was measured, and how far its logits are off."""
    device, kind = torch.device(flags.device), getattr(torch, dtype)
    backends, why = kernels.working_backends(device, kind)
    if why:
        print(f"<!-- {dtype}: {why} -->", flush=True)
    found = exported.read_folder(folder)
    model = exported.put(make(), found, device, kind)
    options = {"batch": batch, "compiled": flags.compile, "seconds": flags.seconds}
    entry = tune.tune(model, found, backends, **options)
    return entry, check.parity(model, exported.read_samples(folder), kind)[0]


def summary(name: str, dtype: str, batch: int, entry: dict[str, Any], apart: float) -> str:
    """Writes a row of the table of whole models."""
    whole = entry["model"]
    packed = "-" if whole["sparse"] is None else f"{whole['sparse']:.3f}"
    faster = sum(layer["runs"] != "dense" for layer in entry["layers"].values())
    return (
        f"| {name} | {dtype} | {batch} | {whole['dense']:.3f} | {packed} |"
        f" {faster} of {len(entry['layers'])} | {entry['runs']} | {apart:.1e} |"
    )


def layer_rows(entries: dict[str, dict[str, Any]]) -> list[str]:
    """Writes the table of layers: a column of 'dense / best sparse' for each measurement."""
    lines = [f"| layer | {' | '.join(entries)} |", "|---|" + "---|" * len(entries)]
    for path in next(iter(entries.values()))["layers"]:
        cells = []
        for entry in entries.values():
            times = entry["layers"][path]["ms"]
            sparse = [time for kernel, time in times.items() if kernel != "dense"]
            cells.append(f"{times['dense']:.3f} / " + (f"{min(sparse):.3f}" if sparse else "-"))
        lines.append(f"| {path} | {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="1,64,256")
    parser.add_argument("--dtypes", default="float16,bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=tune.SECONDS)
    parser.add_argument("--smoke", action="store_true", help="small networks on a CPU")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.device, flags.seconds = "cpu", 1e-4
    elif not torch.cuda.is_available():
        parser.error("no CUDA device; --smoke runs small networks on a CPU")
    torch.backends.cudnn.allow_tf32 = False  # for the stored logits, in float32
    torch.manual_seed(0)
    measured: dict[str, tuple[Any, tuple[int, ...]]] = {
        "resnet50": (lambda: networks.create("resnet50", classes=1000), (3, 224, 224)),
        "ViT-B stack": (Stack, (197, 768)),
    }
    if flags.smoke:
        measured = {
            "resnet20": (lambda: networks.create("resnet20", classes=10), (3, 16, 16)),
            "stack": (lambda: Stack(1, 64), (5, 64)),
        }
    name = "CPU" if flags.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, ms for one batch\n")
    _print_tables(measured, flags)
    return 0


def _print_tables(
    measured: dict[str, tuple[Any, tuple[int, ...]]], flags: argparse.Namespace
) -> None:
    rows: list[str] = []
    details: list[str] = []
    batches = [int(batch) for batch in flags.batches.split(",")]
    with tempfile.TemporaryDirectory() as place:
        for name, (make, shape) in measured.items():
            folder = export(Path(place) / name, make(), shape, flags.device)
            entries = {}
            for dtype in flags.dtypes.split(","):
                for batch in batches:
                    entry, apart = measure(make, folder, dtype, batch, flags)
                    entries[f"{dtype} {batch}"] = entry
                    rows.append(summary(name, dtype, batch, entry, apart))
                    print(f"<!-- {rows[-1]} -->", flush=True)
            details += ["", f"{name}: dense / best sparse", "", *layer_rows(entries)]
    head = "| model | dtype | batch | dense | packed | layers faster | runs | logits off by |"
    print("\n".join(["", head, "|---" * 8 + "|", *rows, *details]))


if __name__ == "__main__":
    sys.exit(main())

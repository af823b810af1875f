"""Runs an exported N:M network in PyTorch, its 2:4 layers on sparse tensor cores; PyTorch alone.

Copy this file next to a deployment; beside it `tune.py` measures (`autotune=True`,
`--check`), `attention.py` splits packed attention, `networks.py` holds our networks:

    model = load(resnet50(), "exported", "cuda", torch.float16, autotune=True, batch=64)
    python runtime.py --check exported --costs=costs.json

A sparse kernel multiplies matrices, so a convolution becomes one: its weight [O, C, h, w] is the
matrix [O, h·w·C]. Letters: B examples, C, O input and output channels, H, W image rows and columns.
"""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple, cast

if __name__ == "__main__" and not all(map(util.find_spec, ("torch", __package__ or "tune"))):
    sys.exit("runtime needs PyTorch (pip install torch safetensors) and tune.py here")

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

LOG = logging.getLogger("domino_jax.deploy")
HALVES = (torch.float16, torch.bfloat16)
# (rows, columns) of the packed matrix must be multiples of: torch/sparse/semi_structured.py.
MULTIPLES = {
    "cusparselt": dict.fromkeys(HALVES, (16, 16)),
    "cutlass": {**dict.fromkeys(HALVES, (32, 64)), torch.float32: (32, 32)},
}
LARGEST_PADDING = 1.1  # of a matrix that is packed without having been timed
FIXED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # read their parts' weights themselves


class Backend(NamedTuple):
    """A sparse kernel: `pack` makes of a matrix a weight of `functional.linear`."""

    name: str
    rows: int
    columns: int
    pack: Callable[[Tensor], Tensor]


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


def _require_layer(folder: Path, path: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
    kinds = {"weight": str, "jax": str, "n": int, "m": int, "sparse24": bool}
    if not isinstance(layer, dict) or any(type(layer.get(k)) is not t for k, t in kinds.items()):
        raise ValueError(f"{folder / 'export.json'}: {path}: wants {', '.join(kinds)}")
    if layer["weight"] not in weights or not layer["weight"].startswith(f"{path}."):
        raise ValueError(f"{folder}: {path}: model.safetensors has no {layer['weight']} of it")
    if layer["sparse24"] and not follows(as_matrix(weights[layer["weight"]]), 2, 4):
        raise ValueError(f"{folder}: {path}: export.json says 2:4, but the weights are not")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: broken JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: an object is wanted")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; a ValueError if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None


def as_matrix(weight: Tensor) -> Tensor:
    """Views a kernel [O, C, h, w] or [O, C] as the matrix that is packed, [O, h·w·C] or [O, C]."""
    return weight.movedim(1, -1).flatten(1)


def padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Adds zeros up to multiples of rows and columns."""
    sides = (0, -matrix.shape[1] % columns, 0, -matrix.shape[0] % rows)
    return functional.pad(matrix, sides) if any(sides) else matrix


def follows(matrix: Tensor, kept: int, group: int) -> bool:
    """Says whether every run of `group` columns has at most `kept` values that are not zero."""
    return bool((padded(matrix, 1, group).unflatten(1, (-1, group)) != 0).sum(-1).max() <= kept)


def pruned(matrix: Tensor, kept: int, group: int) -> Tensor:
    """Keeps the `kept` largest values of every run of `group` columns."""
    groups = padded(matrix, 1, group).unflatten(1, (-1, group))
    mask = torch.zeros_like(groups).scatter(-1, groups.abs().topk(kept).indices, 1)
    return (groups * mask).flatten(1)[:, : matrix.shape[1]]


def kernel_pattern(dtype: torch.dtype) -> tuple[int, int]:
    """Returns what the kernels of a dtype take: 1:2 in float32, 2:4 in 16 bits."""
    return (1, 2) if dtype == torch.float32 else (2, 4)


class _Product(nn.Module):
    """A product with a packed matrix of padded rows and columns."""

    def __init__(self, module: nn.Linear | nn.Conv2d, backend: Backend) -> None:
        super().__init__()
        weight, bias = module.weight.detach(), module.bias
        matrix = pruned(as_matrix(weight), *kernel_pattern(weight.dtype))
        self.outputs = len(matrix)
        matrix = padded(matrix, backend.rows, backend.columns).contiguous()
        self.columns = matrix.shape[1]
        self.weight = nn.Parameter(backend.pack(matrix), requires_grad=False)
        bias = None if bias is None else padded(bias.detach()[None], 1, backend.rows)[0]
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def product(self, inputs: Tensor) -> Tensor:
        """Maps [..., columns] to [..., outputs]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        missing = self.columns - rows.shape[1]
        rows = functional.pad(rows, (0, missing)) if missing else rows
        found = functional.linear(rows, self.weight, self.bias)
        found = found[:, : self.outputs] if found.shape[1] > self.outputs else found
        return found.unflatten(0, inputs.shape[:-1])


class SparseLinear(_Product):
    """An `nn.Linear` with a packed weight."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [..., C] to [..., O]."""
        return self.product(inputs)


class SparseConv2d(_Product):
    """An `nn.Conv2d` as the product of its windows [B, H, W, h·w·C] and a packed matrix."""

    def __init__(self, conv: nn.Conv2d, backend: Backend) -> None:
        super().__init__(conv, backend)
        self.kernel, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding: Any = conv.padding

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, O, H', W'], in channels-last."""
        down, across = self.padding
        x = functional.pad(inputs, (across, across, down, down)) if down or across else inputs
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        height, width = x.shape[2] - reach[0], x.shape[3] - reach[1]
        x = x.permute(0, 2, 3, 1)
        parts = [
            x[:, i : i + height : self.stride[0], j : j + width : self.stride[1]]
            for i in range(0, reach[0] + 1, self.dilation[0])
            for j in range(0, reach[1] + 1, self.dilation[1])
        ]
        windows = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        return self.product(windows).permute(0, 3, 1, 2)


def working_backends(device: torch.device, dtype: torch.dtype) -> tuple[tuple[Backend, ...], str]:
    """Tries the sparse kernels on a device.

    Returns:
        Those that multiply rightly, and in one line why not the others.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return (), f"no CUDA device (got {device})"
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if torch.version.hip or capability < (8, 0):
        return (), f"{name} has no sparse tensor cores (compute capability {capability}, not 8.0)"
    of_dtype = {kernel: sizes[dtype] for kernel, sizes in MULTIPLES.items() if dtype in sizes}
    known = [Backend(kernel, *sizes, _packer(kernel)) for kernel, sizes in of_dtype.items()]
    tried = [(backend, _fault(backend, device, dtype)) for backend in known]
    faults = [f"{backend.name}: {fault}" for backend, fault in tried if fault]
    why = "; ".join(faults) if known else f"no sparse kernel for {dtype}"
    return tuple(backend for backend, fault in tried if not fault), why


def _packer(kernel: str) -> Callable[[Tensor], Tensor]:
    def pack(matrix: Tensor) -> Tensor:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", UserWarning)  # "prototype stage"
            tensor = getattr(torch.sparse, f"SparseSemiStructuredTensor{kernel.upper()}")
            return tensor.from_dense(matrix)

    return pack


@torch.no_grad()
def _fault(backend: Backend, device: torch.device, dtype: torch.dtype) -> str:
    """Says what is wrong with a kernel: PyTorch's lists of architectures lag behind the GPUs."""
    generator = torch.Generator().manual_seed(0)
    matrix, rows = (torch.randn(n, 128, generator=generator).to(device, dtype) for n in (64, 24))
    matrix, bias = pruned(matrix, *kernel_pattern(dtype)).contiguous(), rows[0, :64].clone()
    try:
        packed = backend.pack(matrix)
        for b in (bias, None):  # two different operations
            found = functional.linear(rows, packed, b).double()
            wanted = rows.double() @ matrix.double().T + (0 if b is None else b.double())
            if (found - wanted).abs().max() > 0.02 * wanted.abs().max():
                return "wrong products"
    except (RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0]
    return ""


def product_path(model: nn.Module, path: str) -> str:
    """Names the module that multiplies: of a split attention, that of its packed weight."""
    return f"{path}.in_proj" if hasattr(model.get_submodule(path), "in_proj") else path


def why_dense(model: nn.Module, path: str) -> str:
    """Says why a module cannot be a product with a packed matrix, whatever its weights; or ''."""
    parts = path.split(".")
    for count in range(len(parts)):
        above = model.get_submodule(".".join(parts[:count]))
        if isinstance(above, FIXED):
            return f"{type(above).__name__} reads its weights itself"
    module = model.get_submodule(path)
    if not isinstance(module, nn.Conv2d):
        return "" if isinstance(module, nn.Linear) else f"is a {type(module).__name__}"
    if module.groups > 1:
        return "grouped convolution"
    odd = isinstance(module.padding, str) or module.padding_mode != "zeros"
    return f"padding {module.padding!r} of mode {module.padding_mode!r}" if odd else ""


def why_not_packed(model: nn.Module, path: str, layer: Mapping[str, Any]) -> str:
    """Says why a module stays dense, by its structure or the weights that are in it; or ''."""
    if found := why_dense(model, path):
        return found
    weight = model.get_submodule(path).get_parameter("weight")
    kept, group = kernel_pattern(weight.dtype)
    if layer["n"] == layer["m"]:
        return "all weights kept"
    fits = follows(as_matrix(weight), kept, group)
    return "" if fits else f"{layer['n']}:{layer['m']} is no {kept}:{group} pattern"


def load(
    model: nn.Module,
    folder: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    autotune: bool = False,
    batch: int = 64,
    compile: bool = False,
    example: Tensor | None = None,
    backends: Sequence[Backend] | None = None,
) -> nn.Module:
    """Puts exported weights into a model and packs what runs sparse; batch norms stay float32.

    Without `autotune` every linear layer and 1x1 convolution that can runs sparse; with it what is
    faster on this device, as measured once and kept in the folder's tuning.json, and nothing if the
    whole model is no faster. Without a sparse tensor core all runs dense, which is logged.

    Args:
        model: the definition; it is changed in place.
        folder: from `domino_jax.export`.
        device: to run on.
        dtype: to run in; float32 kernels take 1:2, and multiply in TF32.
        autotune: measure, with `tune.py` beside this file.
        batch: examples at a time, for autotune.
        compile: return `torch.compile(model)`.
        example: inputs to measure with instead of the folder's samples, any number of examples.
        backends: kernels instead of those that work on the device, first wins without autotune.

    Returns:
        The model in evaluation mode, channels-last.

    Raises:
        ValueError: a damaged folder, or one of another model.
    """
    export = read_folder(folder)
    model = put(model, export, torch.device(device), dtype)
    why = ""
    if backends is None:
        backends, why = working_backends(torch.device(device), dtype)
    if not backends:
        LOG.warning("runs dense, with the zeros in place: %s", why)
    elif autotune:
        options = {"batch": batch, "compiled": compile, "example": example}
        beside("tune").tune(model, export, backends, **options)
    else:
        split_attention(model, export)
        replace(model, _untimed(model, export, backends))
    return cast(nn.Module, torch.compile(model)) if compile else model


def beside(name: str) -> Any:
    """Imports a module that lies next to this file, in the package or without it."""
    return import_module(f"{__package__}.{name}" if __package__ else name)


def put(model: nn.Module, export: Export, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Loads the weights (strictly) and moves the model, batch norms in float32, channels-last.

    Raises:
        ValueError: the weights are of another model.
    """
    own = model.state_dict()
    absent = [n for n in own if n not in export.weights and not n.endswith("num_batches_tracked")]
    wrong = [n for n, w in export.weights.items() if n not in own or own[n].shape != w.shape]
    if absent or wrong:
        raise ValueError(
            f"{export.folder}: of another model: {len(absent)} tensors absent {absent[:3]}, "
            f"{len(wrong)} unknown or of another shape {wrong[:3]}"
        )
    model.load_state_dict(export.weights, strict=True)
    model.eval().requires_grad_(False).to(device)
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)
    channels_last: dict[str, Any] = {"memory_format": torch.channels_last}
    return model.to(**channels_last)


def _untimed(model: nn.Module, export: Export, backends: Sequence[Backend]) -> dict[str, Backend]:
    """Chooses for linear layers and 1x1 convolutions the first kernel that wastes little."""
    chosen: dict[str, Backend] = {}
    for name, layer in export.layers.items():
        path = product_path(model, name)
        if why_not_packed(model, path, layer):
            continue
        weight = model.get_submodule(path).get_parameter("weight")
        if weight[0, 0].numel() > 1:
            continue
        for backend in backends:
            size = padded(as_matrix(weight), backend.rows, backend.columns).numel()
            if path not in chosen and size <= LARGEST_PADDING * weight.numel():
                chosen[path] = backend
    return chosen


def packed(module: Any, backend: Backend) -> nn.Module:
    """Makes the product with a packed matrix of an `nn.Linear` or an `nn.Conv2d`."""
    return (SparseConv2d if isinstance(module, nn.Conv2d) else SparseLinear)(module, backend)


def replace(model: nn.Module, chosen: Mapping[str, Backend]) -> dict[str, nn.Module]:
    """Packs modules by path; returns what was there."""
    before = {path: model.get_submodule(path) for path in chosen}
    for path, module in before.items():
        set_module(model, path, packed(module, chosen[path]))
    return before


def split_attention(model: nn.Module, export: Export) -> dict[str, nn.Module]:
    """Replaces attentions whose packed weight the export names; returns what was there."""
    named = [p for p, layer in export.layers.items() if layer["weight"].endswith("in_proj_weight")]
    return beside("attention").split(model, named) if named else {}


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module at a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


if __name__ == "__main__":
    sys.exit(beside("tune").main())

"""Which modules of a network are products that can be packed, and putting others in their place."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from . import attention
from .folder import Export, module_path
from .packing import Backend, as_matrix, follows, kernel_pattern, packed

FIXED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # read their parts' weights themselves


def product_path(model: nn.Module, layer: Mapping[str, Any]) -> str:
    """Names the module that multiplies: of a split attention, that of its packed weight."""
    path = module_path(layer)
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
    if reason := why_dense(model, path):
        return reason
    weight = model.get_submodule(path).get_parameter("weight")
    kept, group = kernel_pattern(weight.dtype)
    if layer["n"] == layer["m"]:
        return "all weights kept"
    fits = follows(as_matrix(weight), kept, group)
    return "" if fits else f"{layer['n']}:{layer['m']} is no {kept}:{group} pattern"


def replace(model: nn.Module, backend_by_path: Mapping[str, Backend]) -> dict[str, nn.Module]:
    """Packs modules by path; returns what was there."""
    before = {path: model.get_submodule(path) for path in backend_by_path}
    for path, module in before.items():
        set_module(model, path, packed(module, backend_by_path[path]))
    return before


def split_attention(model: nn.Module, export: Export) -> dict[str, nn.Module]:
    """Replaces attentions whose packed weight the export names; returns what was there."""
    packed = [
        layer for layer in export.layers.values() if layer["weight"].endswith("in_proj_weight")
    ]
    return attention.split(model, map(module_path, packed))


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module at a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)

"""Layers as products with a packed matrix.

A sparse kernel multiplies matrices, so a convolution becomes one: its weight [O, C, h, w] is the
matrix [O, h·w·C]. Letters: B examples, C, O input and output channels, H, W image rows and columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import sparse24


class Backend(NamedTuple):
    """A sparse kernel: `pack` turns a matrix into a weight that `functional.linear` takes."""

    name: str
    rows: int
    columns: int
    pack: Callable[[Tensor], Tensor]


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


def dtype_name(dtype: torch.dtype) -> str:
    """Names a dtype as export.json does: 'float16'."""
    return str(dtype).removeprefix("torch.")


def kernel_pattern(dtype: torch.dtype) -> tuple[int, int]:
    """Returns what the kernels of a dtype take: 1:2 in float32, 2:4 in 16 bits."""
    return sparse24.pattern(dtype_name(dtype))


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
        results = functional.linear(rows, self.weight, self.bias)
        results = results[:, : self.outputs] if results.shape[1] > self.outputs else results
        return results.unflatten(0, inputs.shape[:-1])


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


def packed(module: Any, backend: Backend) -> nn.Module:
    """Makes the product with a packed matrix of an `nn.Linear` or an `nn.Conv2d`."""
    return (SparseConv2d if isinstance(module, nn.Conv2d) else SparseLinear)(module, backend)

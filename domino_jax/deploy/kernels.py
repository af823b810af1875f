"""The sparse kernels of PyTorch: which of them work on a device."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from . import sparse24
from .packing import Backend, dtype_name, kernel_pattern, pruned


def device_of(name: str | torch.device) -> torch.device:
    """Finds a device that computes.

    Raises:
        ValueError: one line; it is unknown or not there, or holds no values (meta).
    """
    try:
        device = torch.device(name)
        (torch.ones(1, device=device) + 1).cpu()
    # PyTorch's ways to refuse: an unknown or absent device, a build without CUDA, the device meta,
    # a name that is no text.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"device: expected cpu, or a GPU of this machine, got {name}: {cause}"
        ) from None
    return device


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
    backends = [
        Backend(kernel, *sizes[dtype_name(dtype)], _packer(kernel))
        for kernel, sizes in sparse24.MULTIPLES.items()
        if dtype_name(dtype) in sizes
    ]
    with_reasons = [(backend, _reason_against(backend, device, dtype)) for backend in backends]
    reasons = [f"{backend.name}: {reason}" for backend, reason in with_reasons if reason]
    reason = "; ".join(reasons) if backends else f"no sparse kernel for {dtype}"
    return tuple(backend for backend, reason in with_reasons if not reason), reason


def _packer(kernel: str) -> Callable[[Tensor], Tensor]:
    def pack(matrix: Tensor) -> Tensor:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", UserWarning)  # "prototype stage"
            tensor = getattr(torch.sparse, f"SparseSemiStructuredTensor{kernel.upper()}")
            return tensor.from_dense(matrix)

    return pack


@torch.no_grad()
def _reason_against(backend: Backend, device: torch.device, dtype: torch.dtype) -> str:
    """Says what is wrong with a kernel: PyTorch's lists of architectures lag behind the GPUs."""
    generator = torch.Generator().manual_seed(0)
    matrix, rows = (torch.randn(n, 128, generator=generator).to(device, dtype) for n in (64, 24))
    matrix, bias = pruned(matrix, *kernel_pattern(dtype)).contiguous(), rows[0, :64].clone()
    try:
        packed = backend.pack(matrix)
        for b in (bias, None):  # two different operations
            product = functional.linear(rows, packed, b).double()
            expected = rows.double() @ matrix.double().T + (0 if b is None else b.double())
            if (product - expected).abs().max() > 0.02 * expected.abs().max():
                return "wrong products"
    except (RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0]
    return ""

"""Runs an exported N:M network in PyTorch, its 2:4 layers on sparse tensor cores.

Copy this folder whole next to a deployment; it needs PyTorch and safetensors, nothing else of the
package:

    from deploy.runtime import load
    model = load(resnet50(), "exported", "cuda", torch.float16, autotune=True, batch=64)

    python deploy/runtime.py --check exported --costs=costs.json    # or python -m deploy
"""

import signal
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":  # Ctrl-C ends it without a traceback, also while PyTorch is imported
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__" and not __package__:
    # A file that is run belongs to no package: one of this folder is made for the imports below.
    package = ModuleType(__package__ := "deploy")
    package.__path__ = [str(Path(__file__).resolve().parent)]
    sys.modules[__package__] = package
if __name__ == "__main__" and not all(map(util.find_spec, ("torch", "safetensors"))):
    sys.exit("deploy needs PyTorch and safetensors: pip install torch safetensors")

import logging
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from . import check, sparse24
from .folder import Export, put, read_folder
from .kernels import device_of, working_backends
from .packing import Backend, as_matrix, dtype_name, padded
from .structure import product_path, replace, split_attention, why_not_packed
from .tune import tune

LOG = logging.getLogger("domino_jax.deploy")
LARGEST_PADDING = 1.1  # of a matrix that is packed without having been timed


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

    Without `autotune` every linear layer and 1x1 convolution runs sparse if it can. With it, only
    layers that are faster so on this device do, and none if the whole model is no faster; this is
    measured once and kept in the folder's tuning.json. Without a sparse tensor core all layers run
    dense, which is logged.

    Args:
        model: the definition; it is changed in place.
        folder: from `domino_jax.export`.
        device: to run on.
        dtype: to run in; float32 kernels take 1:2, and multiply in TF32.
        autotune: measure, and pack what is faster.
        batch: examples at a time, for autotune.
        compile: return `torch.compile(model)`.
        example: inputs to measure with instead of the folder's samples, any number of examples.
        backends: kernels instead of those that work on the device, first wins without autotune.

    Returns:
        The model in evaluation mode, channels-last.

    Raises:
        ValueError: a damaged folder, or one of another model; a device that is not there, a dtype
            that no export has.
    """
    if dtype_name(dtype) not in sparse24.DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(sparse24.DTYPES)}, got {dtype}")
    device = device_of(device)
    export = read_folder(folder)
    model = put(model, export, device, dtype)
    reason = ""
    if backends is None:
        backends, reason = working_backends(device, dtype)
    if not backends:
        LOG.warning("runs dense, with the zeros in place: %s", reason)
    elif autotune:
        tune(model, export, backends, batch=batch, compiled=compile, example=example)
    else:
        split_attention(model, export)
        replace(model, _untimed(model, export, backends))
    return cast(nn.Module, torch.compile(model)) if compile else model


def _untimed(model: nn.Module, export: Export, backends: Sequence[Backend]) -> dict[str, Backend]:
    """Chooses for linear layers and 1x1 convolutions the first kernel that wastes little."""
    backend_by_path: dict[str, Backend] = {}
    for layer in export.layers.values():
        path = product_path(model, layer)
        if why_not_packed(model, path, layer):
            continue
        weight = model.get_submodule(path).get_parameter("weight")
        if weight[0, 0].numel() > 1:
            continue
        for backend in backends:
            size = padded(as_matrix(weight), backend.rows, backend.columns).numel()
            if path not in backend_by_path and size <= LARGEST_PADDING * weight.numel():
                backend_by_path[path] = backend
    return backend_by_path


if __name__ == "__main__":
    sys.exit(check.main())

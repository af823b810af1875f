"""Exports written by hand and kernels for a CPU, for the tests of the PyTorch side.

PLAIN multiplies with the matrix as it is, ROUND_TRIP with what is left of it after PyTorch's own
packing for CUTLASS: a matrix that is no 2:4 pattern comes back changed.
"""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from domino_jax.deploy import packing, tune

CPU = torch.device("cpu")
QUICK = ("--device=cpu", "--seconds=0.0001")
LEVELS = {"0": (1, 1), "2": (2, 4), "4": (1, 4), "6": (2, 4)}  # of `small`


def round_trip(matrix):
    return sparse_semi_structured_to_dense_cutlass(
        *sparse_semi_structured_from_dense_cutlass(matrix)
    )


PLAIN = packing.Backend("plain", 16, 16, lambda matrix: matrix)
ROUND_TRIP = packing.Backend("cutlass", 32, 64, round_trip)


def prune(module, kept=2, group=4):
    """Sets the smallest weights of a layer to zero, in place; returns it."""
    weight = module.weight.detach()
    matrix = packing.pruned(packing.as_matrix(weight), kept, group)
    with torch.no_grad():
        if weight.ndim == 4:
            o, c, h, w = weight.shape
            module.weight.copy_(matrix.reshape(o, h, w, c).permute(0, 3, 1, 2))
        else:
            module.weight.copy_(matrix)
    return module


def small():
    """Makes a network with a layer of every kind."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def export(folder, model, levels, shape, info=None):
    """Writes the folder that `domino_jax.export` would; prunes the model."""
    layers, masks = {}, {}
    for path, (n, m) in levels.items():
        module = model.get_submodule(path)
        if n < m:
            prune(module, n, m)
            masks[f"{path}.weight"] = (module.weight != 0).to(torch.uint8)
        matrix = packing.as_matrix(module.weight.detach())
        layers[path] = {
            "weight": f"{path}.weight",
            "jax": f"{path.replace('.', '/')}/kernel",
            "n": n,
            "m": m,
            "sparse24": n < m and packing.follows(matrix, 2, 4),
        }
    inputs = torch.randn(6, *shape)
    with torch.no_grad():
        logits = model.eval()(inputs)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    samples = {"inputs": inputs, "logits": logits}
    return write_folder(folder, state, masks, samples, layers, info)


def write_folder(folder, state, masks, samples, layers, info=None):
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    save_file(masks, folder / "masks.safetensors")
    save_file(samples, folder / "samples.safetensors")
    document = {"format": 1, "dtype": "float32", "layers": layers, **(info or {})}
    (folder / "export.json").write_text(json.dumps(document))
    return folder


def logits_of(model, folder, dtype=torch.float32):
    with torch.inference_mode():
        return model(load_file(folder / "samples.safetensors")["inputs"].to(dtype)).double()


def stored_logits(folder):
    return load_file(folder / "samples.safetensors")["logits"].double()


def script_times(monkeypatch, *, layers, whole):
    """Lets sparse layers and a model that holds some take these times, all else 1 ms."""
    sparse = packing.SparseLinear | packing.SparseConv2d
    seen = []

    def one(module, calls, seconds):
        seen.append(type(module).__name__)
        return layers if isinstance(module, sparse) else 1.0

    def all_of_it(call, seconds):
        model = next(
            c.cell_contents for c in call.__closure__ if isinstance(c.cell_contents, nn.Module)
        )
        return whole if any(isinstance(m, sparse) for m in model.modules()) else 1.0

    monkeypatch.setattr(tune, "_time", one)
    monkeypatch.setattr(tune, "milliseconds", all_of_it)
    return seen


def change_tensors(folder, name, change):
    tensors = load_file(folder / f"{name}.safetensors")
    change(tensors)
    save_file(tensors, folder / f"{name}.safetensors")


def change_document(folder, change):
    document = json.loads((folder / "export.json").read_text())
    change(document)
    (folder / "export.json").write_text(json.dumps(document))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def unpacked(tensor):
    """Returns the matrix of a tensor that PyTorch packed for CUTLASS, transposed or not."""
    if tensor.packed is None:
        return sparse_semi_structured_to_dense_cutlass(tensor.packed_t, tensor.meta_t)
    return sparse_semi_structured_to_dense_cutlass(tensor.packed, tensor.meta)

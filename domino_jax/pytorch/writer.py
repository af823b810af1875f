"""Writes a sparse network for PyTorch.

`export` writes the folder that `exported` describes: beside the output, read back and checked, and
then renamed, so that it appears whole or not at all.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core import paths
from domino_jax.core.errors import InputError
from domino_jax.core.files import json_text
from domino_jax.core.finite import require_finite
from domino_jax.core.kernels import n_by_path
from domino_jax.core.masked import make_masks
from domino_jax.deploy import sparse24
from domino_jax.pytorch import exported, folding, layouts
from domino_jax.pytorch.document import Network, describe, level_of, write_scheme
from domino_jax.pytorch.layouts import Names, Tensor
from domino_jax.trace import norms

FOLD_TOLERANCE = 1e-4  # relative; float32 gives about 1e-6


def export(
    network: Network,
    out: Path,
    *,
    dtype: str = "float16",
    fold_norms: bool = False,
    onnx: bool = False,
    backend: str | None = None,
    names: Names | None = None,
) -> dict[str, Any]:
    """Writes a sparse network for PyTorch.

    Args:
        network: what to write.
        out: folder to make.
        dtype: of the weights: 'float32', 'float16' or 'bfloat16'; running statistics are float32.
        fold_norms: batch norms go into the convolutions before them; the logits are compared.
        onnx: also model.onnx, in float32, of the same (rounded) weights; needs PyTorch.
        backend: whose shape multiples count: 'cusparselt' or 'cutlass'; None: the first that has
            kernels of the dtype.
        names: path -> PyTorch's name, for a network of one's own.

    Returns:
        The document of export.json.

    Raises:
        InputError: one line, and nothing is written: an argument is not allowed, `out` exists, the
            scheme does not fit the network or the weights, or a weight does not fit the dtype, or a
            number is NaN or infinite.
    """
    paths.require_known([dtype], sparse24.DTYPES, what="dtype")
    backend = backend or sparse24.default_backend(dtype)
    paths.require_known([backend], sparse24.BACKENDS, what="backend")
    if onnx and not network.known:
        raise InputError(f"format onnx: PyTorch has no network {network.name!r} to write")
    with whole_folder(out) as folder:
        _write(network, folder, dtype, fold_norms, backend, names=names)
        document = exported.check(folder)
        if onnx:
            from domino_jax.pytorch import onnx_file  # noqa: PLC0415 (needs PyTorch)

            onnx_file.write(folder)
        if importlib.util.find_spec("torch") is not None:
            _write_pt(folder)
    return document


def require_free(out: Path) -> None:
    """Refuses a place where something is, or where no folder can be put.

    Raises:
        InputError: there is a link, a file, or a folder that is not empty or is a disk of its own;
            or the folder around it cannot be written.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise InputError(f"out {out}: exists already; remove it or choose another")
    if out.name == "..":
        raise InputError(f"out {out}: expected the name of a folder to make, got '..'")
    if os.path.ismount(out):
        raise InputError(f"out {out}: expected a folder to make, got a disk; choose one in it")
    _beside(out).rmdir()


def _beside(out: Path) -> Path:
    """Makes a folder for what takes the place of `out` later, in the nearest one that is there.

    Raises:
        InputError: it cannot be made.
    """
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    try:
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    except OSError as error:
        raise InputError(f"out {out}: cannot be written ({error.strerror})") from None


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Makes a folder that takes the place of `out` only when all went well."""
    require_free(out)
    partial = _beside(out)
    try:
        whole = partial / "export"  # `partial` itself lets nobody but the owner in
        whole.mkdir()
        yield whole
        out.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(out.absolute())  # of '.' the system says that it is busy
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    network: Network,
    folder: Path,
    dtype: str,
    fold_norms: bool,
    backend: str,
    *,
    names: Names | None,
) -> None:
    params, stats = on_host(network.model.params), on_host(network.model.stats)
    require_finite(network.name, params | stats)
    masks = sparse_masks(network, params)
    evaluation = _evaluation(network)
    pairs: dict[str, str] = {}
    if fold_norms:
        params, stats, pairs = _folded(network, params, stats, evaluation)
    params = {path: _rounded(path, array, dtype) for path, array in params.items()}
    by_torch = network.known or names is not None
    trees = network.model.params, network.model.stats
    layout = (
        layouts.tensors(*trees, network.layers, names or layouts.torch_name)
        if by_torch
        else layouts.plain_tensors(*trees, network.layers)
    )
    arrays = layouts.to_torch(params | stats, layout)
    if by_torch:
        arrays |= {name: np.zeros((), np.int64) for name in layouts.counters(layout)}
        arrays = _without_norms(arrays, layout, pairs)
    logits = evaluation.logits(params, stats)
    document = describe(
        network,
        layout,
        arrays,
        classes=logits.shape[-1],
        dtype=dtype,
        backend=backend,
        by_torch=by_torch,
    )
    document["folded"] = fold_norms
    exported.write_arrays(folder / exported.WEIGHTS, arrays)
    exported.write_arrays(folder / exported.MASKS, layouts.to_torch(masks, layout))
    write_scheme(folder / exported.SCHEME, network, document)
    samples = {"inputs": _for_torch(network.inputs), "logits": logits}
    exported.write_arrays(folder / exported.SAMPLES, samples)
    text = json_text(document, indent=1) + "\n"
    (folder / exported.DOCUMENT).write_text(text, encoding="utf-8")


class _Evaluation(NamedTuple):
    """A network in evaluation mode on its held inputs, traced once.

    Attributes:
        jaxpr: of the leaves of params, stats and inputs.
        logits: (params, stats), path -> array of any precision, to logits in float32.
    """

    jaxpr: Any
    logits: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], np.ndarray]


def _evaluation(network: Network) -> _Evaluation:
    model = network.model

    def evaluate(params: Any, stats: Any, inputs: Any) -> Any:
        key = jax.random.key(0)  # drawn from by nothing in evaluation mode
        return model.apply(params, stats, inputs, train=False, key=key)[0]

    with jax.default_matmul_precision("highest"):
        traced = jax.jit(evaluate).trace(model.params, model.stats, network.inputs)
        compiled = traced.lower().compile()

    def tree(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        old = paths.leaves_by_path(template)
        wide = {path: arrays[path].astype(leaf.dtype) for path, leaf in old.items()}
        return paths.replace_leaves(template, wide)

    def logits(params: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> np.ndarray:
        outputs = compiled(tree(model.params, params), tree(model.stats, stats), network.inputs)
        return np.asarray(outputs).astype(np.float32)

    return _Evaluation(traced.jaxpr, logits)


def on_host(tree: Any) -> dict[str, np.ndarray]:
    """Lists the leaves of a pytree by path, as NumPy arrays."""
    return {path: np.asarray(leaf) for path, leaf in paths.leaves_by_path(tree).items()}


def sparse_masks(network: Network, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the masks of the layers with N < M, uint8, in our layout.

    Raises:
        InputError: the scheme does not fit, or a weight outside the masks is not zero.
    """
    n = n_by_path(network.scheme, network.layers)
    masks = jax.jit(lambda params: make_masks(params, network.layers, n))(network.model.params)
    sparse = {
        layer.path
        for layer in network.layers
        if level_of(network, layer).n < level_of(network, layer).m
    }
    found = {path: np.asarray(mask) for path, mask in masks.items() if path in sparse}
    for path, mask in found.items():
        if more := np.count_nonzero(params[path][~mask]):
            which = ", ".join(
                str(network.scheme[layer.name]) for layer in network.layers if layer.path == path
            )
            raise InputError(f"{path}: {more} weights more than its {which} allows are not zero")
    return {path: mask.astype(np.uint8) for path, mask in found.items()}


def _folded(
    network: Network,
    params: dict[str, np.ndarray],
    stats: dict[str, np.ndarray],
    evaluation: _Evaluation,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    before = evaluation.logits(params, stats)
    roles = {layer.path: layer.roles for layer in network.layers if layer.roles}
    epsilons = norms.epsilons(evaluation.jaxpr, [None] * len(params) + list(stats))
    folded = folding.fold(params, stats, roles, epsilons)
    apart = relative_difference(evaluation.logits(folded.params, folded.stats), before)
    if not apart <= FOLD_TOLERANCE:
        raise InputError(
            f"folding batch norms changes the logits by {apart:.1e} of their size: the network "
            "does not compute each norm right after the convolution of its name"
        )
    return folded.params, folded.stats, folded.convolutions


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference relative to the largest expected value; NaN where one is."""
    scale = float(np.abs(expected).max())
    return float(np.abs(actual - expected).max()) / (scale or 1.0)


def _rounded(path: str, array: np.ndarray, dtype: str) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    with np.errstate(over="ignore"):  # what overflows is refused below
        low = array.astype(jnp.dtype(dtype))
    if not np.isfinite(low.astype(np.float32)).all():
        raise InputError(f"{path}: has values that {dtype} cannot hold; bfloat16 and float32 can")
    return low


def _for_torch(inputs: np.ndarray) -> np.ndarray:
    """Brings images [B, H, W, C] to [B, C, H, W], and tokens to what an `nn.Embedding` takes."""
    if np.issubdtype(inputs.dtype, np.integer):
        inputs = inputs.astype(np.int32)
    return np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs


def _without_norms(
    arrays: dict[str, np.ndarray], layout: tuple[Tensor, ...], pairs: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Replaces folded norms by the biases of their convolutions."""
    by_path = {t.path: t.name for t in layout}
    for norm, kernel in pairs.items():
        module = by_path[f"{norm}/scale"].rpartition(".")[0]
        bias = by_path[kernel].removesuffix("weight") + "bias"
        arrays[bias] = arrays[by_path[f"{norm}/bias"]]
        arrays = {k: v for k, v in arrays.items() if k.rpartition(".")[0] != module}
    return arrays


def _write_pt(folder: Path) -> None:
    import torch  # noqa: PLC0415 (an extra)
    from safetensors.torch import load_file  # noqa: PLC0415

    torch.save(load_file(folder / exported.WEIGHTS), folder / "model.pt")

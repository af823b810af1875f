"""An ONNX file of an export, zeros in place: for TensorRT, trtexec --sparsity=enable."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.pytorch import exported, onnx_gemm

FILE = "model.onnx"
TOLERANCE = 1e-3  # of the logits, relative to the largest


def write(folder: Path) -> None:
    """Writes model.onnx into an export and checks it on the CPU with onnxruntime.

    The graph is float32 whatever the dtype of the weights (TensorRT lowers it: trtexec --fp16);
    the batch is a free dimension; batch norms stay operations of their own unless folded. Whatever
    export.json calls sparse is a Conv or a Gemm, which TensorRT's sparse kernels take.

    Raises:
        InputError: one line; a package is missing, the logits differ from the stored ones, the
            file has other weights, or a sparse layer is neither Conv nor Gemm.
    """
    try:
        import onnx  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f"format onnx needs torch, onnx, onnxscript and onnxruntime: {error}"
        ) from None
    document, samples = (
        exported.read_document(folder),
        exported.read_arrays(folder / "samples.safetensors"),
    )
    path = folder / FILE
    inputs = samples["inputs"]
    _convert(torch, _torch_model(folder, document), torch.from_numpy(inputs[:2].copy()), path)
    model = onnx.load(path)
    onnx_gemm.as_gemms(onnx, model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    _require_products(model, document)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs})
    apart = np.abs(logits - samples["logits"]).max() / max(np.abs(samples["logits"]).max(), 1e-30)
    if not apart <= TOLERANCE:
        raise InputError(f"{FILE}: logits differ by {apart:.1e} from JAX, at most {TOLERANCE:g}")
    _require_same_weights(onnx, path, folder)


def _torch_model(folder: Path, document: dict[str, Any]) -> Any:
    from safetensors.torch import load_file  # noqa: PLC0415

    from domino_jax.deploy import networks  # noqa: PLC0415

    model = networks.of_export(document)
    model.load_state_dict(load_file(folder / exported.WEIGHTS), strict=True)
    return model.eval()


def _convert(torch: Any, model: Any, example: Any, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of a missing torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=["inputs"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            external_data=False,
            optimize=False,  # it would fold batch norms behind our back
            verbose=False,
        )


def _require_products(model: Any, document: dict[str, Any]) -> None:
    product_weights = onnx_gemm.products(model)
    for name, entry in document["layers"].items():
        if entry["sparse24"] and entry["weight"] not in product_weights:
            raise InputError(
                f"{FILE}: {name}: can run sparse in PyTorch, but is no Conv or Gemm there, which "
                "alone run sparse in TensorRT"
            )


def _require_same_weights(onnx: Any, path: Path, folder: Path) -> None:
    """Refuses a file in which a masked weight is not, bit for bit, the exported one."""
    tensors = {t.name: t for t in onnx.load(path).graph.initializer}
    weights = exported.read_arrays(folder / exported.WEIGHTS)
    for name in exported.read_arrays(folder / exported.MASKS):
        written = onnx.numpy_helper.to_array(tensors[name]) if name in tensors else None
        if written is None or not np.array_equal(written, weights[name].astype(np.float32)):
            raise InputError(f"{FILE}: {name} is absent or has other values there")

"""Linear layers of an ONNX graph as Gemm, which TensorRT's sparse kernels take.

PyTorch writes a linear layer of more than two axes as MatMul(x, Transpose(W)), plus a bias, which
they do not take. Letters: I, O inputs and outputs of the layer.
"""

from typing import Any

import numpy as np


def as_gemms(onnx: Any, model: Any) -> None:
    """Replaces MatMul(x [..., I], Transpose(W [O, I])) + b by Gemm over the rows of x, in place.

    Args:
        onnx: the package.
        model: an `onnx.ModelProto`.
    """
    graph = model.graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and len(sizes.get(node.input[0], ())) == 2
    }
    nodes: list[Any] = []
    added: set[str] = set()  # outputs of Adds that are in a Gemm; a node has no lasting identity
    for node in graph.node:
        if added & {*node.output}:
            continue
        if node.op_type == "MatMul" and node.input[1] in turned:
            weight = turned[node.input[1]]
            add = _bias_after(graph, node, sizes)
            nodes += _gemm(onnx, graph, node, weight, sizes[weight], add)
            added |= set() if add is None else {*add.output}
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {out.name for out in graph.output}
    kept = [node for node in nodes if used & {*node.output}]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _bias_after(graph: Any, node: Any, sizes: dict[str, Any]) -> Any:
    """Returns the Add of a bias [O] that alone takes a product, None if there is none."""
    name = node.output[0]
    takers = [other for other in graph.node if name in other.input]
    if len(takers) != 1 or takers[0].op_type != "Add" or name in {o.name for o in graph.output}:
        return None
    others = [other for other in takers[0].input if other != name]
    return takers[0] if [len(sizes.get(other, ())) for other in others] == [1] else None


def _gemm(
    onnx: Any, graph: Any, node: Any, weight: str, size: tuple[int, int], add: Any
) -> list[Any]:
    """Makes the nodes: rows of x, their product, and the axes of x back before the outputs."""
    outputs, inputs = size
    source, name = node.input[0], node.output[0]
    last = name if add is None else add.output[0]
    bias = [] if add is None else [other for other in add.input if other != name]
    for label, values in (("rows", [-1, inputs]), ("outputs", [outputs])):
        array = np.array(values, np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}_{label}"))
    make = onnx.helper.make_node
    return [
        make("Shape", [source], [f"{name}_before"], start=0, end=-1),
        make("Concat", [f"{name}_before", f"{name}_outputs"], [f"{name}_shape"], axis=0),
        make("Reshape", [source, f"{name}_rows"], [f"{name}_flat"]),
        make("Gemm", [f"{name}_flat", weight, *bias], [f"{name}_product"], transB=1),
        make("Reshape", [f"{name}_product", f"{name}_shape"], [last]),
    ]


def products(model: Any) -> set[str]:
    """Lists the weights that are the second operand of a Conv or a Gemm."""
    return {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}

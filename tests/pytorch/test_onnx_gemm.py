"""Linear layers of an ONNX graph as Gemm: the same outputs, the weights where TensorRT looks."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from domino_jax.core.errors import InputError
from domino_jax.pytorch import exported, onnx_file, onnx_gemm


class Net(nn.Module):
    """Packed attention, linear layers with and without a bias, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8, bias=False)
        self.twice, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        """Maps [B, L, 8] to [B, 3]."""
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(torch.relu(self.up(x)))
        x = self.twice(torch.tanh(self.twice(x)))
        return self.head(x.mean(1))


def test_every_weight_is_the_operand_of_a_gemm(tmp_path):
    torch.manual_seed(0)
    net, path = Net().eval(), tmp_path / "net.onnx"
    onnx_file._convert(torch, net, torch.randn(2, 5, 8), path)
    model = onnx.load(path)
    weights = {name for name, value in net.named_parameters() if value.ndim == 2}
    assert len(weights) == 6
    assert weights - onnx_gemm.products(model)  # as PyTorch writes it
    onnx_gemm.as_gemms(onnx, model)
    onnx.checker.check_model(model, full_check=True)
    assert onnx_gemm.products(model) == weights
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Gemm") == 7
    inputs = torch.randn(3, 5, 8)  # another batch
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"inputs": inputs.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, net(inputs).numpy(), rtol=0, atol=1e-5)


def test_a_sparse_layer_that_is_no_product_there_is_refused(tmp_path):
    net, path = Net().eval(), tmp_path / "net.onnx"
    onnx_file._convert(torch, net, torch.randn(2, 5, 8), path)
    document = {"layers": {"up": {"weight": "up.weight", "sparse24": True}}}
    with pytest.raises(ValueError, match=r"model\.onnx: up: .* no Conv or Gemm"):
        onnx_file._require_products(onnx.load(path), document)


@pytest.mark.parametrize("change", [lambda a: a + 1, lambda a: a[:, :4]])
def test_a_weight_that_is_another_there_is_refused(tmp_path, change):
    net, path = Net().eval(), tmp_path / "net.onnx"
    onnx_file._convert(torch, net, torch.randn(2, 5, 8), path)
    weights = {"up.weight": net.up.weight.detach().numpy()}
    exported.write_arrays(tmp_path / exported.MASKS, weights)
    exported.write_arrays(tmp_path / exported.WEIGHTS, weights)
    onnx_file._require_same_weights(onnx, path, tmp_path)
    changed = {name: change(weight) for name, weight in weights.items()}
    exported.write_arrays(tmp_path / exported.WEIGHTS, changed)
    with pytest.raises(InputError, match=r"up\.weight is absent or has other values there"):
        onnx_file._require_same_weights(onnx, path, tmp_path)

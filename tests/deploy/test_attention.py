"""Packed attention as modules of its own, against PyTorch's, alone and in a loaded network."""

import pytest
import torch
import torch_export
from torch import nn

from domino_jax.deploy import attention, packing, runtime, structure


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_split_attention_is_pytorchs(batch_first, bias):
    model = nn.ModuleDict({"a": nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first)})
    source = model.eval()["a"]
    assert attention.split(model, ["a"]) == {"a": source}
    x, y = torch.randn(2, 6, 6, 16)
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for arguments in ((x, x, x), (x, y, y), (x, y, x)):
        for mask in (None, causal, torch.randn(6, 6), torch.randn(24, 6, 6)):
            for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
                found = model["a"](*arguments, attn_mask=mask, **options)
                wanted = source(*arguments, attn_mask=mask, **options)
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no key_padding_mask"):
        model["a"](x, x, x, key_padding_mask=torch.zeros(6, 6, dtype=torch.bool))


def test_attention_that_cannot_be_split_stays():
    other = nn.MultiheadAttention(16, 4, kdim=8, vdim=8)
    model = nn.ModuleDict({"a": other, "b": nn.TransformerEncoderLayer(16, 4)})
    assert attention.split(model, ["a", "b.self_attn"]) == {}
    assert (
        structure.why_dense(model, "b.linear1")
        == "TransformerEncoderLayer reads its weights itself"
    )
    assert structure.why_dense(model, "a") == "is a MultiheadAttention"
    assert structure.why_dense(model, "a.out_proj") == "MultiheadAttention reads its weights itself"


def test_packed_attention_is_loaded_and_restored(tmp_path, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
            self.fc = nn.Linear(64, 32)

        def forward(self, x):
            return self.fc(self.attention(x, x, x, need_weights=False)[0]).mean(1)

    source = Net()
    weight = source.attention.in_proj_weight.detach()
    weight.copy_(packing.pruned(weight, 2, 4))
    folder = torch_export.export(
        tmp_path / "x", source, {"fc": (2, 4), "attention.out_proj": (2, 4)}, (5, 64)
    )
    name = "attention.in_proj_weight"
    packed = {"weight": name, "n": 2, "m": 4, "sparse24": True, "jax": "a"}
    torch_export.change_document(folder, lambda d: d["layers"].update(attention=packed))
    torch_export.change_tensors(
        folder, "masks", lambda t: t.update({name: (weight != 0).to(torch.uint8)})
    )
    found = runtime.load(Net(), folder, "cpu", torch.float16, backends=[torch_export.ROUND_TRIP])
    assert isinstance(found.attention.out_proj, packing.SparseLinear)
    assert isinstance(found.attention.in_proj, packing.SparseLinear)
    assert (
        torch_export.logits_of(found, folder, torch.float16) - torch_export.stored_logits(folder)
    ).abs().max() < 5e-3
    torch_export.script_times(monkeypatch, layers=0.5, whole=2.0)
    found = runtime.load(
        Net(), folder, "cpu", torch.float16, backends=[torch_export.PLAIN], autotune=True
    )
    assert type(found.attention) is nn.MultiheadAttention
    assert type(found.fc) is nn.Linear
    assert (
        torch_export.logits_of(found, folder, torch.float16) - torch_export.stored_logits(folder)
    ).abs().max() < 5e-3

"""Running an export in PyTorch, on a CPU: the kernels' place is taken by other matrices."""

import logging

import pytest
import torch
import torch_export
from torch import nn
from torch.nn import functional
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT as CuSparseLt
from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass

from domino_jax.deploy import check, kernels, packing, runtime, sparse24, structure


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path):
    return torch_export.export(
        tmp_path / "exported", torch_export.small(), torch_export.LEVELS, (3, 8, 8)
    )


def test_matrix_of_a_convolution_has_the_inputs_innermost():
    weight = torch.arange(12.0).reshape(1, 3, 2, 2)  # O, C, h, w
    expected = [[0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]]
    assert packing.as_matrix(weight).tolist() == expected


@pytest.mark.parametrize(
    ("row", "two_of_four", "one_of_two"),
    [
        ([1, 1, 0, 0], True, False),
        ([1, 0, 0, 1], True, True),
        ([1, 1, 1, 0], False, False),
        ([0, 0, 1, 1, 1, 0, 0, 0], True, False),
        ([0, 0, 0, 1, 1, 1], True, False),  # a short last run
        ([0, 0, 0, 0], True, True),
    ],
)
def test_patterns_by_hand(row, two_of_four, one_of_two):
    assert packing.follows(torch.tensor([row]), 2, 4) == two_of_four
    assert packing.follows(torch.tensor([row]), 1, 2) == one_of_two


def test_pruning_by_hand():
    matrix = torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 5.0]])
    assert packing.pruned(matrix, 2, 4).tolist() == [[0, -3, 2, 0, 4, 5]]
    assert packing.pruned(matrix, 1, 2).tolist() == [[0, -3, 2, 0, 0, 5]]


def test_multiples_are_pytorchs():
    for kernel, theirs in (("cutlass", Cutlass), ("cusparselt", CuSparseLt)):
        for dtype, sizes in sparse24.MULTIPLES[kernel].items():
            constraint = theirs._DTYPE_SHAPE_CONSTRAINTS[getattr(torch, dtype)]
            assert sizes == (constraint.sparse_min_rows, constraint.sparse_min_cols)
    assert torch.float32 not in CuSparseLt._DTYPE_SHAPE_CONSTRAINTS


@pytest.mark.parametrize(
    "backend", [torch_export.PLAIN, torch_export.ROUND_TRIP], ids=lambda b: b.name
)
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((16, 16, 1), {}),
        ((64, 32, 1), {"stride": 2, "bias": False}),
        ((20, 24, 3), {"padding": 1}),
        ((16, 16, (3, 2)), {"stride": (2, 1), "padding": (0, 1)}),
        ((16, 16, 3), {"dilation": 2, "padding": 2, "bias": False}),
        ((3, 8, 7), {"stride": 2, "padding": 3}),
    ],
)
def test_convolution_is_a_product(backend, sizes, options):
    dtype = torch.float16 if backend is torch_export.ROUND_TRIP else torch.float64
    conv = torch_export.prune(nn.Conv2d(*sizes, **options)).to(dtype)
    inputs = torch.randn(2, sizes[0], 11, 9).to(dtype)
    for x in (inputs, inputs.contiguous(memory_format=torch.channels_last)):
        found = packing.SparseConv2d(conv, backend)(x)
        torch.testing.assert_close(found.double(), conv.double()(x.double()), rtol=2e-3, atol=2e-3)
        conv.to(dtype)
    full = nn.Conv2d(*sizes, **options).to(dtype)
    assert not torch.allclose(packing.SparseConv2d(full, backend)(inputs), full(inputs), atol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "kept", "group"),
    [(torch.float16, 2, 4), (torch.bfloat16, 2, 4), (torch.float32, 1, 2)],
)
def test_packing_keeps_the_pattern_of_the_dtype(dtype, kept, group):
    linear = torch_export.prune(nn.Linear(100, 10), kept, group).to(dtype)
    found = packing.SparseLinear(linear, torch_export.ROUND_TRIP)
    assert found.weight.shape == (32, 128)
    # PyTorch unpacks float32 by halves, where a bit pattern of a NaN loses its last bits.
    rounding = 1e-3 if dtype == torch.float32 else 0.0
    kept_weights = found.weight[:10, :100]
    torch.testing.assert_close(kept_weights, linear.weight.detach(), rtol=rounding, atol=0.0)
    assert not found.weight[10:].any()
    inputs = torch.randn(3, 5, 100).to(dtype)
    torch.testing.assert_close(found(inputs), linear(inputs), rtol=2e-2, atol=2e-2)
    full = torch.ones(32, 128, dtype=dtype)
    assert not torch.equal(torch_export.round_trip(full), full)


def test_reasons():
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(8, 8, 3),
        torch_export.prune(nn.Linear(16, 16)),
    )
    reasons = [structure.why_dense(model, str(i)) for i in range(5)]
    assert reasons[0] == "grouped convolution"
    assert reasons[1].startswith("padding 'same'")
    assert reasons[2].endswith("mode 'reflect'")
    assert reasons[3:] == ["is a Conv1d", ""]
    assert structure.why_not_packed(model, "4", {"n": 2, "m": 4}) == "2:4 is no 1:2 pattern"
    assert structure.why_not_packed(model.half(), "4", {"n": 2, "m": 4}) == ""
    assert structure.why_not_packed(model, "4", {"n": 4, "m": 4}) == "all weights kept"


def test_without_a_gpu_it_runs_dense_and_says_so(folder, caplog):
    with caplog.at_level(logging.WARNING):
        model = runtime.load(torch_export.small(), folder, "cpu", torch.float32, autotune=True)
    assert caplog.messages == ["runs dense, with the zeros in place: no CUDA device (got cpu)"]
    assert [type(m) for m in model] == [type(m) for m in torch_export.small()]
    assert (model[4].weight == 0).double().mean() >= 0.75
    torch.testing.assert_close(
        torch_export.logits_of(model, folder),
        torch_export.stored_logits(folder),
        rtol=1e-5,
        atol=1e-5,
    )


def test_no_kernel_for_a_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "Card has no sparse tensor cores" in kernels.working_backends(cuda, torch.float16)[1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.working_backends(cuda, torch.float64) == (
        (),
        "no sparse kernel for torch.float64",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kernels_are_tried_on_the_device(dtype):
    assert kernels._reason_against(torch_export.PLAIN, torch_export.CPU, dtype) == ""
    assert kernels._reason_against(torch_export.ROUND_TRIP, torch_export.CPU, dtype) == ""
    assert (
        kernels._reason_against(
            torch_export.PLAIN._replace(pack=torch.zeros_like), torch_export.CPU, dtype
        )
        == "wrong products"
    )
    real = kernels._packer("cutlass")
    assert "CUDA" in kernels._reason_against(
        torch_export.PLAIN._replace(pack=real), torch_export.CPU, dtype
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_linear_layers_and_1x1_convolutions_are_packed(folder, dtype):
    model = runtime.load(torch_export.small(), folder, "cpu", dtype, backends=[torch_export.PLAIN])
    kinds = [type(m).__name__ for m in model]
    assert kinds[:3] == ["Conv2d", "BatchNorm2d", "SparseConv2d"]
    assert kinds[4] == "Conv2d"  # 3x3: only where it is known to be faster
    assert model[6].__class__ is nn.Linear  # 10 rows would become 16
    assert (model[1].running_var.dtype, model[0].weight.dtype) == (torch.float32, dtype)
    tolerance = check.TOLERANCE[str(dtype)[6:]]
    wanted = torch_export.stored_logits(folder)
    assert (
        torch_export.logits_of(model, folder, dtype) - wanted
    ).abs().max() < tolerance * wanted.abs().max()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own
def test_compile_wraps(folder):
    model = runtime.load(
        torch_export.small(),
        folder,
        "cpu",
        torch.float32,
        backends=[torch_export.PLAIN],
        compile=True,
    )
    assert isinstance(model, torch._dynamo.OptimizedModule)


BROKEN = {
    "export.json: No such file": lambda f: (f / "export.json").unlink(),
    "export.json: broken JSON": lambda f: (f / "export.json").write_text("{"),
    "export.json: expected a JSON object": lambda f: (f / "export.json").write_text("[]"),
    "no export of format 1": lambda f: torch_export.change_document(
        f, lambda d: d.update(format=2)
    ),
    "has no PyTorch names": lambda f: torch_export.change_document(
        f, lambda d: d.update(names="jax")
    ),
    "2: wants weight, jax": lambda f: torch_export.change_document(
        f, lambda d: d["layers"]["2"].update(n="2")
    ),
    "has no 2.bias2": lambda f: torch_export.change_document(
        f, lambda d: d["layers"]["2"].update(weight="2.bias2")
    ),
    "model.safetensors: ": lambda f: torch_export.truncate(f / "model.safetensors"),
    "masks.safetensors: ": lambda f: (f / "masks.safetensors").unlink(),
    "2.weight: weights disagree": lambda f: torch_export.change_tensors(
        f, "masks", lambda t: t["2.weight"].zero_()
    ),
    "no weights of its shape": lambda f: torch_export.change_tensors(
        f, "masks", lambda t: t.update({"2.weight": t["2.weight"][:1].contiguous()})
    ),
    "has no mask of it": lambda f: torch_export.change_tensors(
        f, "masks", lambda t: t.pop("2.weight")
    ),
    "says 2:4, but the weights are not": lambda f: torch_export.change_tensors(
        f, "model", lambda t: t["2.weight"].fill_(1)
    ),
    r"of another model: 1 tensors absent \['6.bias'\], 1 unknown": lambda f: (
        torch_export.change_tensors(f, "model", lambda t: t.update({"7.bias": t.pop("6.bias")}))
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_folders(folder, message):
    runtime.load(torch_export.small(), folder, "cpu", torch.float32, backends=[torch_export.PLAIN])
    BROKEN[message](folder)
    with pytest.raises(ValueError, match=message) as error:
        runtime.load(
            torch_export.small(), folder, "cpu", torch.float32, backends=[torch_export.PLAIN]
        )
    assert "\n" not in str(error.value)


@pytest.fixture
def cutlass(monkeypatch):
    """Lets PyTorch's own packed tensor live on a CPU: its check and its kernel are replaced."""

    def product(self, inputs, *, bias=None, should_transpose_dense=False):
        assert should_transpose_dense
        return functional.linear(inputs, torch_export.unpacked(self), bias)

    monkeypatch.setattr(Cutlass, "_validate_device_dim_dtype_shape", lambda tensor: None)
    monkeypatch.setattr(Cutlass, "_mm", product)
    return packing.Backend("cutlass", 32, 64, kernels._packer("cutlass"))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_pytorchs_packed_tensor(folder, cutlass, mode):
    model = runtime.load(torch_export.small(), folder, "cpu", torch.float16, backends=[cutlass])
    dense = runtime.load(torch_export.small(), folder, "cpu", torch.float16, backends=[])
    for path in ("4", "6"):
        structure.replace(model, {path: cutlass})
    assert isinstance(model[6].weight, Cutlass)
    assert isinstance(model[4].weight, Cutlass)
    inputs = torch.randn(2, 3, 8, 8).half()
    with mode():
        torch.testing.assert_close(model(inputs), dense(inputs), rtol=1e-2, atol=2e-3)
    assert kernels._reason_against(cutlass, torch_export.CPU, torch.bfloat16) == ""

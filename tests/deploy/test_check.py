"""The command line of deploy on wrong values, and files that are written whole or not at all."""

import errno
import json
import os
import types

import pytest
import torch
import torch_export
from torch import nn

from domino_jax.deploy import check, kernels, runtime, tune
from domino_jax.deploy import folder as folders


@pytest.fixture
def folder(tmp_path):
    return torch_export.export(
        tmp_path / "exported", torch_export.small(), torch_export.LEVELS, (3, 8, 8)
    )


def one_line(capsys, arguments):
    """Runs the command, which must fail; returns its line."""
    try:
        assert check.main(arguments) == 1
    except SystemExit as stop:
        assert stop.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device=cuda",), "device: expected cpu, or a GPU of this machine, got cuda: "),
        (("--device=cuda:7",), "got cuda:7: "),
        (("--device=foo",), "got foo: "),
        (("--device=meta",), "got meta: "),
        (("--device=",), "got : "),
        (("--batch=-1",), "--batch: expected 1 or more examples, got -1"),
        (("--batch=0",), "--batch: expected 1 or more examples, got 0"),
        (("--batch=many",), "argument --batch: invalid int value: 'many'"),
        (("--seconds=nan",), "--seconds: expected a time above 0, got nan"),
        (("--dtype=int8",), "argument --dtype: invalid choice: 'int8'"),
        (("--candidates=0",), "--candidates: expected counts such as 2,4, got '0'"),
        (("--costs=nowhere/costs.json",), "--costs: expected a file in a folder that exists"),
        (("--model=os:getcwd",), "--model=os:getcwd: expected a torch.nn.Module, got a str"),
        (("--model=os:kill",), "--model=os:kill: TypeError: "),
        (("--model=nowhere:net",), "--model=nowhere:net: ModuleNotFoundError: "),
        (("--unknown",), "unrecognized arguments: --unknown"),
    ],
)
def test_wrong_values_are_refused_in_one_line(folder, capsys, flags, words):
    if flags[0].startswith("--device=cuda") and torch.cuda.is_available():
        pytest.skip("there is such a device")
    line = one_line(capsys, [f"--check={folder}", "--device=cpu", *flags])
    assert line.startswith("error: ")
    assert words in line


def test_load_refuses_devices_and_dtypes_in_one_line(folder):
    with pytest.raises(ValueError, match="got meta") as caught:
        runtime.load(torch_export.small(), folder, "meta", torch.float16)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"one of float32, float16, bfloat16, got torch\.int8"):
        runtime.load(torch_export.small(), folder, "cpu", torch.int8)
    with torch.device("meta"):
        model = torch_export.small()
    with pytest.raises(ValueError, match=r"expected tensors with values, got some on .* meta"):
        runtime.load(model, folder, "cpu", torch.float32)


def test_a_model_that_cannot_take_the_samples(folder, capsys, monkeypatch):
    monkeypatch.setattr(check, "put", lambda model, *_: nn.Sequential(nn.Conv2d(5, 1, 1)))
    monkeypatch.setattr(check, "_build", lambda *_: None)
    line = one_line(capsys, [f"--check={folder}", "--device=cpu"])
    assert "error: samples: the model cannot take inputs of shape [6, 3, 8, 8]: " in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["layers"]["2"].update(n=5), "2: expected 1 <= n <= m, got 5:4"),
        (lambda d: d["layers"]["2"].update(n=0), "2: expected 1 <= n <= m, got 0:4"),
        (lambda d: d["layers"]["2"].update(candidates=[1, "2"]), "2: candidates: expected counts"),
        (lambda d: d["layers"]["2"].update(candidates=4), "2: candidates: expected counts of 1"),
    ],
)
def test_counts_that_no_scheme_has(folder, capsys, change, words):
    torch_export.change_document(folder, change)
    assert words in one_line(capsys, [f"--check={folder}", "--device=cpu"])


@pytest.mark.parametrize(
    "change", [{"classes": "10"}, {"classes": 10**15}, {"image": [8]}, {"model_options": {"a": 1}}]
)
def test_sizes_that_no_network_has(folder, capsys, change):
    whole = {"model": "vit_b16", "classes": 10, "in_channels": 3, "image": [32, 32]}
    torch_export.change_document(folder, lambda d: d.update(whole | change))
    line = one_line(capsys, [f"--check={folder}", "--device=cpu"])
    assert "error: model 'vit_b16': " in line
    assert "--model=module:function makes your own" in line


def test_a_device_that_computes():
    assert kernels.device_of("cpu") == torch.device("cpu")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "costs.json"
    path.write_text("old")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"costs\.json: cannot be written: No space") as caught:
        folders.write_whole(path, "new" * 1000)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["costs.json"]
    assert path.read_text() == "old"


def test_times_that_cannot_be_kept_are_measured_and_said(folder, monkeypatch, caplog):
    def fail(path, text):
        raise ValueError(f"{path}: cannot be written: Read-only file system")

    monkeypatch.setattr(tune, "write_whole", fail)
    export = folders.read_folder(folder)
    model = folders.put(torch_export.small(), export, torch_export.CPU, torch.float32)
    assert tune.tune(model, export, [], batch=1, seconds=1e-4)["layers"].keys() == {*"0246"}
    assert "tuning.json: cannot be written" in caplog.text
    assert not (folder / "tuning.json").exists()


TIMES = {
    "layers": {"0": {"ms": {"dense": 1.5}, "runs": "dense", "why": "no faster"}},
    "model": {"dense": 2.5, "sparse": None},
    "runs": "dense",
    "backends": ["cutlass"],
}
BROKEN_TIMES = [
    TIMES | {"layers": {"0": 1}},
    TIMES | {"layers": {"elsewhere": TIMES["layers"]["0"]}},
    TIMES | {"layers": {"0": TIMES["layers"]["0"] | {"runs": "other"}}},
    TIMES | {"layers": {"0": TIMES["layers"]["0"] | {"why": "\x1b[31m"}}},
    TIMES | {"layers": {"0": TIMES["layers"]["0"] | {"ms": {"dense": "fast"}}}},
    TIMES | {"model": {"dense": float("nan"), "sparse": None}},
    TIMES | {"model": 3},
    TIMES | {"backends": None},
]


def test_nothing_from_outside_reaches_a_terminal_as_it_is(folder, capsys):
    def renamed(document):
        document["layers"]["0\x1b[31m"] = document["layers"].pop("0")

    torch_export.change_document(folder, renamed)
    line = one_line(capsys, [f"--check={folder}", "--device=cpu"])
    assert r"0\x1b[31m: a name that cannot be printed" in line
    assert one_line(capsys, ["--check=\x1b[31m", "--device=cpu"]).startswith(r"error: \x1b[31m/ex")


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{", "[" * 100_000, '{"format": 1, "entries": [1]}'),
        '{"format": 1, "entries": [{"runs": "dense"}]}',
        *(json.dumps({"format": 1, "entries": [entry]}) for entry in BROKEN_TIMES),
    ],
    ids=range(5 + len(BROKEN_TIMES)),
)
def test_damaged_times_are_refused(folder, content):
    (folder / "tuning.json").write_text(content)
    export = folders.read_folder(folder)
    model = folders.put(torch_export.small(), export, torch_export.CPU, torch.float32)
    with pytest.raises(ValueError, match=r"tuning\.json: damaged; delete it"):
        tune.tune(model, export, [], batch=1)


class Words(nn.Module):
    """A tied head and an LSTM, which cannot be timed alone."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(16, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.middle = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, words):
        """Maps [B, L] to [B, L, 16]."""
        x = self.tokens(words)
        return self.head(self.middle(self.lstm(x)[0]))


def _words(tmp_path):
    torch.manual_seed(0)
    model = Words().eval()
    words = torch.randint(0, 16, (4, 5), dtype=torch.int32)
    with torch.no_grad():
        logits = model(words)
    state = {k: v.clone() for k, v in model.state_dict().items() if k != "head.weight"}
    names = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "middle.weight", "tokens.weight"]
    keys = {"middle.weight": "middle", "tokens.weight": "tokens"}
    layers = {
        keys.get(name, name): {"weight": name, "jax": name, "n": 1, "m": 1, "sparse24": False}
        for name in names
    }
    torch_export.write_folder(
        tmp_path / "x", state, {}, {"inputs": words, "logits": logits}, layers
    )
    return tmp_path / "x"


def test_a_tied_tensor_is_there_with_the_other(tmp_path):
    folder = _words(tmp_path)
    model = runtime.load(Words(), folder, "cpu", torch.float32)
    assert check.parity(model, folders.read_samples(folder), torch.float32)[0] < 1e-5
    assert model.head.weight is model.tokens.weight
    other = Words()
    other.head.weight = nn.Parameter(torch.randn(16, 8))
    with pytest.raises(ValueError, match=r"1 tensors absent \['head\.weight'\]"):
        runtime.load(other, folder, "cpu", torch.float32)


def test_what_cannot_be_timed_alone_says_why(tmp_path):
    folder = _words(tmp_path)
    export = folders.read_folder(folder)
    model = folders.put(Words(), export, torch_export.CPU, torch.float32)
    entry = tune.tune(model, export, [torch_export.PLAIN], batch=2, seconds=1e-4)
    whys = {name: layer["why"] for name, layer in entry["layers"].items()}
    assert whys["lstm.weight_ih_l0"] == whys["lstm.weight_hh_l0"] == "is a LSTM"
    assert whys["tokens"] == "is a Embedding"
    assert entry["layers"]["middle"]["ms"]["dense"] > 0
    assert entry["dtype"] == "float32"  # of the weights, not that of the words
    written = json.loads((folder / "tuning.json").read_text())["entries"]
    assert written == [entry]


def test_a_dtype_that_no_kernel_has(folder, capsys, monkeypatch):
    """On a GPU the weights are taken in the dtype of the export."""
    monkeypatch.setattr(check, "device_of", lambda _: types.SimpleNamespace(type="cuda"))
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float8"}))
    line = one_line(capsys, [f"--check={folder}"])
    assert "dtype: expected one of ('float32', 'float16', 'bfloat16'), got 'float8'" in line

import json
import os
import types
from pathlib import Path
from typing import Any

import pytest

from domino_jax.core import scheme as schemes
from domino_jax.core.costs import count_weights, total_cost
from domino_jax.core.scheme import NM

SCHEME = {"b/kernel": NM(2, 4), "a/kernel": NM(4, 4), "stack/kernel#3": NM(1, 16)}


def test_nm_text() -> None:
    assert str(NM(2, 4)) == "2:4"
    assert NM.parse("2:4") == NM.parse(" 2 : 4 ") == NM(2, 4)
    assert NM.parse("16:16") == NM(16, 16)


@pytest.mark.parametrize("text", ["", "2", "2:", ":4", "2:4:8", "-1:4", "2/4", "a:b", "2.0:4"])
def test_nm_text_refused(text: str) -> None:
    with pytest.raises(ValueError, match="written like 2:4, got"):
        NM.parse(text)


@pytest.mark.parametrize(
    ("n", "m"), [(0, 4), (5, 4), (-1, 4), (1, 0), (2.0, 4), ("2", 4), (True, 4)]
)
def test_nm_refused(n: Any, m: Any) -> None:
    with pytest.raises(ValueError, match="N:M"):
        NM(n, m)


def test_nm_out_of_range_says_which() -> None:
    with pytest.raises(ValueError, match="1 <= N <= M, got 5:4"):
        NM.parse("5:4")


def test_file_is_readable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scheme.json"
    schemes.save(path, SCHEME, model="tiny", budget={"params": 0.25}, steps=12)
    assert path.read_text() == (
        '{\n  "format": 1,\n  "model": "tiny",\n  "budget": {"params": 0.25},\n  "steps": 12,\n'
        '  "order": ["b/kernel", "a/kernel", "stack/kernel#3"],\n  "layers": {\n'
        '    "b/kernel": {"n": 2, "m": 4},\n    "a/kernel": {"n": 4, "m": 4},\n'
        '    "stack/kernel#3": {"n": 1, "m": 16}\n  }\n}\n'
    )
    loaded = schemes.load(path)
    assert loaded == SCHEME
    assert list(loaded) == list(SCHEME)
    assert schemes.load_document(path)["budget"] == {"params": 0.25}


@pytest.mark.parametrize("names", [[], ['é/kern"el\n', "数"]])
def test_odd_names(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "s.json"
    schemes.save(path, {name: NM(1, 2) for name in names})
    assert list(schemes.load(path)) == names


def test_order_decides_over_the_order_of_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    nm = {"n": 1, "m": 2}
    path.write_text(json.dumps({"layers": {"a": nm, "b": nm}, "order": ["b", "a"], "format": 1}))
    assert list(schemes.load(path)) == ["b", "a"]


def test_save_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    schemes.save(path, {"a": NM(1, 2)})

    def full_disk(_: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="disk full"):
            schemes.save(path, SCHEME)
    assert schemes.load(path) == {"a": NM(1, 2)}
    assert os.listdir(tmp_path) == ["s.json"]  # noqa: PTH208
    schemes.save(path, SCHEME)
    assert schemes.load(path) == SCHEME


def test_a_reader_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    schemes.save(path, {"a": NM(1, 2)})
    old = path.read_text()
    with path.open() as reader:
        schemes.save(path, SCHEME)
        assert reader.read() == old


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("order", [], "'order' is a reserved name"),
        ("format", 2, "'format' is a reserved name"),
        ("budget", {1, 2}, "'budget'.*not JSON.*set"),
        ("achieved", float("nan"), "'achieved'.*not JSON"),
    ],
)
def test_extra_entries_refused(tmp_path: Path, key: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        schemes.save(tmp_path / "s.json", SCHEME, **{key: value})
    assert not list(tmp_path.iterdir())


GOOD = {"format": 1, "order": ["a"], "layers": {"a": {"n": 1, "m": 2}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1,\n  "order" ["a"]}', "broken JSON: .* at line 2, column 11"),
        ("", "broken JSON: .* at line 1, column 1"),
        ("[1]", "expected a JSON object, got a list"),
        ("{}", "the entry 'format' is missing"),
        (json.dumps(GOOD | {"format": 2}), "expected format 1, which this program reads, got 2"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "order"}), "'order' is missing"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "layers"}), "'layers' is missing"),
        (json.dumps(GOOD | {"order": "a"}), "'order': expected a list"),
        (json.dumps(GOOD | {"order": [1]}), "'order': expected a list of layer names"),
        (json.dumps(GOOD | {"layers": ["a"]}), "'layers': expected an object"),
        (json.dumps(GOOD | {"layers": {"a": [1, 2]}}), "layer 'a': expected .*got \\[1, 2\\]"),
        (json.dumps(GOOD | {"layers": {"a": {"n": 1}}}), "layer 'a': expected"),
        (json.dumps(GOOD | {"layers": {"a": {"n": 3, "m": 2}}}), "layer 'a': .*got 3:2"),
        (json.dumps(GOOD | {"layers": {"a": {"n": 0, "m": 2}}}), "layer 'a': .*got 0:2"),
        (json.dumps(GOOD | {"layers": {"a": {"n": 1.5, "m": 2}}}), "layer 'a': .*1.5"),
        (json.dumps(GOOD | {"order": ["a", "b"]}), "'order' names 'b', which 'layers' lacks"),
        (json.dumps(GOOD | {"order": []}), "'layers' has 'a', which 'order' lacks"),
        (json.dumps(GOOD | {"order": ["a", "a"]}), "'order' names 'a' twice"),
        ('{"format": 1, "format": 1}', "the key 'format' is there twice"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    for read in (schemes.load, schemes.load_document):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: expected a JSON file, .* No such"):
        schemes.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="expected a JSON file, got none: Is a directory"):
        schemes.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary: expected a JSON file of UTF-8 text"):
        schemes.load(tmp_path / "binary")


def test_what_has_a_scheme_is_none() -> None:
    """`exact_scheme` returns more than a scheme."""
    found = types.SimpleNamespace(scheme=SCHEME)
    for use in (
        lambda: schemes.require_fits(found, []),
        lambda: schemes.save("a.json", found),
        lambda: total_cost((), count_weights, found),
    ):
        with pytest.raises(
            ValueError, match=r"layer to N:M, got SimpleNamespace; take its \.scheme"
        ):
            use()
    with pytest.raises(ValueError, match=r"layer to N:M, got list$"):
        schemes.require_fits([], [])


def test_require_fits() -> None:
    schemes.require_fits(SCHEME, list(SCHEME)[::-1])
    with pytest.raises(ValueError, match=r"lacks 'x' \(2 in all\)$"):
        schemes.require_fits(SCHEME, [*SCHEME, "x", "y"])
    with pytest.raises(ValueError, match=r"no 'a/kernel' \(2 in all\)$"):
        schemes.require_fits(SCHEME, ["b/kernel"])
    with pytest.raises(
        ValueError, match=r"lacks 'x' \(1 in all\) and .* no 'b/kernel' \(3 in all\)"
    ):
        schemes.require_fits(SCHEME, iter(["x"]))


def test_a_byte_order_mark_is_no_part_of_a_scheme(tmp_path: Path) -> None:
    schemes.save(tmp_path / "plain.json", SCHEME)
    marked = tmp_path / "marked.json"
    marked.write_text((tmp_path / "plain.json").read_text(), encoding="utf-8-sig")
    assert marked.read_bytes().startswith(b"\xef\xbb\xbf")
    assert schemes.load(marked) == SCHEME

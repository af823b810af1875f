"""Files appear whole or not at all."""

import ast
import errno
import os
from pathlib import Path

import pytest

from domino_jax.core import files
from domino_jax.core.errors import InputError


@pytest.mark.parametrize("given", [(), ("b",)])
def test_a_full_disk_names_the_file(tmp_path, given):
    path = tmp_path / "a.txt"

    def write():
        with files.replacing(path):
            raise OSError(errno.ENOSPC, "No space left on device", *given)

    with pytest.raises(OSError) as caught:
        write()
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert caught.value.filename == (given[0] if given else str(path))


def test_text_appears_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old\n")
    assert path.read_text() == "old\n"
    seen = []

    def killed(descriptor):
        seen.append(path.read_text())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)
        files.write_text(path, "new\n")
    assert seen == ["old\n"]  # the new text was elsewhere until it was on disk
    assert path.read_text() == "old\n"
    files.write_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_fails_in_between_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        assert partial.parent == tmp_path
        partial.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    with files.replacing(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_newlines_and_letters_stay_as_they_are(tmp_path):
    files.write_text(tmp_path / "a", "ü\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "broken JSON: Expecting property name .* at line 1, column 2"),
        (b"[" * 100_000, "broken JSON: it is nested too deeply"),
        (b'{"a":' * 100_000, "broken JSON: it is nested too deeply"),
        (b"1" * 10_000, "Exceeds the limit"),
        (b"\xff\xfe", "expected a JSON file of UTF-8 text"),
        (None, "expected a JSON file, got none: No such file or directory"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, content, said):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: {said}") as caught:
        files.read_json(path)
    assert "\n" not in str(caught.value)


def test_no_path_is_too_strange(tmp_path):
    for path in (tmp_path, tmp_path / ("x" * 300), tmp_path / "\udcff", Path("a\0b")):
        with pytest.raises(InputError, match="expected a JSON file"):
            files.read_json(path)


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "kind"), [(pipe, "a pipe"), (device, "a device")])
def test_what_may_never_end_is_not_opened(tmp_path, make, kind):
    path = tmp_path / "a.json"
    make(path)
    assert files.kind_of(path) == kind
    with pytest.raises(InputError, match=rf"^{path}: expected a JSON file, got {kind}$"):
        files.read_json(path)


def test_a_text_that_is_too_long(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    monkeypatch.setattr(files, "MOST_BYTES", 3)
    assert files.read_json(path) == [1]
    monkeypatch.setattr(files, "MOST_BYTES", 2)
    with pytest.raises(InputError, match="a JSON file of at most 2 bytes, got more"):
        files.read_json(path)


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, 2]}', encoding="utf-8-sig")
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, 2]}


def test_a_digest_depends_on_content_and_names_inside_alone(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"a")
        (folder / "b").write_bytes(b"b")
    assert files.digest_of(one) == files.digest_of(other)
    assert files.digest_of(one / "b") != files.digest_of(one / "sub" / "a")
    (other / "b").rename(other / "c")
    assert files.digest_of(one) != files.digest_of(other)
    (other / "c").rename(other / "b")
    (other / "b").write_bytes(b"B")
    assert files.digest_of(one) != files.digest_of(other)


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), object(), {"a": {1, 2}}])
def test_only_json_is_written(value):
    with pytest.raises(InputError, match="not JSON, which has finite numbers, text"):
        files.json_text({"a": [value]})


def test_all_json_is_written_there():
    """A call of json.dumps elsewhere would write NaN; `deploy` is copied alone and says so."""
    root = Path(files.__file__).parents[1]
    found = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "json.dump" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                allowed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                found.append((path.parent.name, path.stem, allowed.get("allow_nan")))
    assert found == [
        ("core", "files", "False"),
        ("deploy", "check", "False"),
        ("deploy", "tune", "False"),
    ]

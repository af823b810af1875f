"""Where an export may go is asked before anything is read, and nothing is left there."""

import pytest

from domino_jax.core.errors import InputError
from domino_jax.pytorch import writer


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("dangling", "exists already"),
        ("loop", "exists already"),
        ("to_empty", "exists already"),
        ("file", "exists already"),
        ("dangling/x", "cannot be written \\(No such file"),
        ("file/x/y", "cannot be written \\(Not a directory"),
        ("/dev/null/x", "cannot be written \\(Not a directory"),
        ("a/../b/..", "expected the name of a folder to make, got '..'"),
        ("/proc", "exists already"),
    ],
)
def test_what_cannot_be_a_folder(tmp_path, monkeypatch, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "to_empty").symlink_to("empty")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"^out {out}: {said}"):
        writer.require_free(writer.Path(out))
    with (
        pytest.raises(InputError, match=f"^out {out}: {said}"),
        writer.whole_folder(writer.Path(out)),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(writer.os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(InputError, match="got a disk; choose one in it"):
        writer.require_free(tmp_path)


@pytest.mark.parametrize("out", ["empty", "a/b/c", "empty/../d", "."])
def test_what_can(tmp_path, monkeypatch, out):
    (tmp_path / "here" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / ("empty" if out == "." else ""))
    writer.require_free(writer.Path(out))
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "empty"]
    with writer.whole_folder(writer.Path(out)) as folder:
        (folder / "a").write_text("a")
    place = tmp_path / "here" / ("empty" if out == "." else out)
    assert [path.name for path in place.iterdir()] == ["a"]

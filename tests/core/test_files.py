"""Files appear whole or not at all."""

import os

import pytest

from domino_jax.core import files


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

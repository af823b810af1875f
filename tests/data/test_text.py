"""Text of one's own: tokens, windows, and the split by file."""

import json

import numpy as np
import pytest
import tokens

from domino_jax import data
from domino_jax.core.errors import InputError
from domino_jax.data.sets import text as text_set


@pytest.fixture
def tokenizer(tmp_path):
    return tokens.save(tmp_path / "tokenizer")


def opened(tmp_path, tokenizer, length=4, **options):
    return data.create(
        "text", data_dir=str(tmp_path), tokenizer=str(tokenizer), length=length, **options
    )


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_windows_of_a_single_file(tmp_path, tokenizer):
    path = write(tmp_path / "text", one_txt="abcdefghij" * 10) / "one.txt"
    made = opened(path, tokenizer)
    assert (made.train_size, made.test_size, made.classes) == (22, 2, tokens.SIZE)
    batches = list(made.evaluate(2))
    text = "".join(map(tokens.letter, np.asarray(batches[0]["inputs"]).ravel()))
    following = "".join(map(tokens.letter, np.asarray(batches[0]["labels"]).ravel()))
    # The last tenth, and the end of text.
    assert (text, following) == ("bcdefghi", "cdefghij")
    seen = np.concatenate([made.train(0, 11)[step]["inputs"] for step in (0, 1)])
    assert len(np.unique(seen, axis=0)) > 1
    np.testing.assert_array_equal(
        sorted("".join(map(tokens.letter, row)) for row in seen),
        sorted(("abcdefghij" * 9)[start : start + 4] for start in range(0, 88, 4)),
    )


def test_windows_begin_as_the_tokenizer_begins_a_text(tmp_path):
    tokenizer = tokens.save(tmp_path / "tokenizer", start=True)
    path = write(tmp_path / "text", one_txt="abcdefghij" * 10) / "one.txt"
    batch = next(iter(opened(path, tokenizer).evaluate(2)))
    assert (batch["inputs"][:, 0] == tokens.START).all()
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])


def test_the_split_is_by_file_and_documents_end(tmp_path, tokenizer):
    lines = "".join(json.dumps({"text": word}) + "\n" for word in ("aaaa", "", "bbbb"))
    folder = write(tmp_path / "text", a_txt="cccccccc", b_md="dddddddd", c_jsonl=lines, d_csv="x")
    made = opened(folder, tokenizer)
    tests = np.concatenate([np.ravel(batch["inputs"]) for batch in made.evaluate(1)])
    trains = np.concatenate([made.train(0, 1)[step]["inputs"].ravel() for step in range(9)])
    apart = set(map(tokens.letter, tests)), set(map(tokens.letter, trains))
    assert apart[0] & apart[1] <= {"."}
    assert apart[0] | apart[1] == set("abcd.")
    assert made.fingerprint == opened(folder, tokenizer).fingerprint
    (folder / "a.txt").write_text("ccccdccc")
    assert made.fingerprint != opened(folder, tokenizer).fingerprint


def test_pieces_join_to_the_whole_text(tmp_path, tokenizer, monkeypatch):
    path = write(tmp_path / "text", one_txt="abc\ndef\nghij" * 20) / "one.txt"
    whole = opened(path, tokenizer).fingerprint
    monkeypatch.setattr("domino_jax.data.sets.text._PIECE", 7)
    assert opened(path, tokenizer).fingerprint == whole


def test_a_truncation_in_the_tokenizer_is_not_ours(tmp_path):
    tokenizer = tokens.save(tmp_path / "tokenizer", truncate=3)
    path = write(tmp_path / "text", one_txt="abcdefghij" * 10) / "one.txt"
    assert opened(path, tokenizer).train_size == 22


def test_what_is_refused(tmp_path, tokenizer):
    def refused(text, **options):
        with pytest.raises(InputError) as error:
            opened(text, **{"tokenizer": tokenizer, **options})
        assert "\n" not in str(error.value)
        return str(error.value)

    folder = write(tmp_path / "text", one_txt="")
    assert "data.dir: expected a file, or a folder" in refused(tmp_path / "none")
    assert "got 0" in refused(folder)
    assert "tokens or more of test text" in refused(write(folder, one_txt="abcdefg"))
    assert "expected a tokenizer.json" in refused(folder, tokenizer=tmp_path / "text")
    (folder / "tokenizer.json").write_text("{}")
    assert "not a tokenizer.json, or damaged" in refused(folder, tokenizer=folder)
    (folder / "one.txt").write_bytes(b"\xff\xff")
    assert "expected UTF-8 text" in refused(folder)
    (folder / "one.txt").unlink()
    assert "line 2: expected an object with its 'text'" in refused(
        write(folder, one_jsonl='{"text": "a"}\n["b"]\n')
    )
    assert "line 1: broken JSON" in refused(write(folder, one_jsonl="{"))
    long = write(folder, one_jsonl=json.dumps({"text": "a" * 200}))
    assert "test_examples: expected a whole number from 1 to" in refused(long, test_examples=99)
    assert "length: expected a whole number" in refused(long, length=0)


def test_a_tokenizer_that_does_not_know_a_word(tmp_path):
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    text = tmp_path / "a.jsonl"
    text.write_text(json.dumps({"text": "b"}))
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot turn the text into tokens"):
        opened(text, tmp_path)
    text.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": "a\ud800"}))
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: expected Unicode text"):
        opened(text, tmp_path)


def test_a_text_that_went(tmp_path, tokenizer):
    words = text_set._words(str(tokenizer))
    with pytest.raises(InputError, match=r"a\.txt: cannot be read: No such file"):
        list(text_set._of_file(tmp_path / "a.txt", words))


def test_lines_that_are_no_documents(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    for line in ("{", "[" * 100_000):
        path.write_text(line)
        with pytest.raises(InputError, match=r"a\.jsonl, line 1: broken JSON"):
            opened(path, tokenizer)

"""Text of one's own: tokens, windows, and the split by file."""

import json
import os
import shutil

import numpy as np
import pytest
import tokens
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from domino_jax import data
from domino_jax.core.errors import InputError
from domino_jax.data.sets import text as text_set
from domino_jax.data.tokenizer import _in_one_line, read_words


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


def test_pieces_join_where_the_tokenizer_begins_a_text_with_a_space(tmp_path, monkeypatch):
    """As Llama-2's (a normalizer), newer ones of sentencepiece and RoBERTa's (a pre-tokenizer)."""
    text = "a  b\n\n c\nd" * 20 + "\n"
    vocabulary = {letter: index for index, letter in enumerate("abcd\n▁ĊĠ?")}
    for name, part in (
        (
            "normalizer",
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ),
        ("pre_tokenizer", pre_tokenizers.Metaspace()),
        ("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        ("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False)),
    ):
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="?"))
        setattr(made, name, part)
        made.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "a.txt").write_text(text)
        words = read_words(str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr("domino_jax.data.sets.text._PIECE", 7)
            pieces = [*text_set._of_file(tmp_path / "a.txt", words)]
        assert len(pieces) > 9
        assert [token for piece in pieces for token in piece] == made.encode(text).ids, part


def test_a_tokenizer_that_takes_a_text_for_one_word_loses_no_piece(tmp_path):
    words = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    assert read_words(str(tmp_path)).encode_on("a") == [0]


def test_links_to_text_add_nothing(tmp_path, tokenizer):
    folder = write(tmp_path / "text", a_txt="abcd" * 9, b_txt="efgh" * 9)
    plain = opened(folder, tokenizer).fingerprint
    for name, target in (("la.txt", "a.txt"), ("0.txt", "b.txt"), ("up", ".."), ("me", ".")):
        (folder / name).symlink_to(target)
    assert opened(folder, tokenizer).fingerprint == plain


def test_what_is_no_regular_file(tmp_path, tokenizer):
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        for name in ("a.txt", "tokenizer.json"):
            make(tmp_path / name)
        with pytest.raises(InputError, match=r"data\.dir: expected a file, or a folder"):
            opened(tmp_path / "a.txt", tokenizer)
        with pytest.raises(InputError, match=r"data\.tokenizer: expected a tokenizer\.json"):
            read_words(str(tmp_path / "tokenizer.json"))
        for name in ("a.txt", "tokenizer.json"):
            shutil.rmtree(tmp_path / name) if make is os.mkdir else (tmp_path / name).unlink()


def test_a_folder_in_the_place_of_the_tokenizers_config(tokenizer):
    config = tokenizer / "tokenizer_config.json"
    config.unlink()
    config.mkdir()
    with pytest.raises(InputError, match=r"tokenizer_config\.json: expected a JSON file"):
        read_words(str(tokenizer))


def test_a_panic_of_the_tokenizer_is_one_line(tokenizer, capfd):
    path = tokenizer / "tokenizer.json"
    document = json.loads(path.read_text())
    lost = {"SpecialToken": {"id": "lost", "type_id": 0}}
    processor = {"type": "TemplateProcessing", "single": [lost], "pair": [], "special_tokens": {}}
    for changes, said in (
        ({"post_processor": processor}, "cannot turn the text into tokens: no entry found for key"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "damaged: Pre"),
    ):
        path.write_text(json.dumps(document | changes))
        with pytest.raises(InputError, match=said) as error:
            read_words(str(tokenizer))
        assert "\n" not in str(error.value)
        os.write(2, b"after")
        assert capfd.readouterr() == ("", "after")


def test_what_is_no_fault_of_the_tokenizer_passes():
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), _in_one_line("x"):
            raise error
    with pytest.raises(InputError, match=r"x: one$"), _in_one_line("x"):
        raise ValueError("one\ntwo")


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
    words = read_words(str(tokenizer))
    with pytest.raises(InputError, match=r"a\.txt: cannot be read: No such file"):
        list(text_set._of_file(tmp_path / "a.txt", words))


def test_lines_that_are_no_documents(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    for line in ("{", "[" * 100_000):
        path.write_text(line)
        with pytest.raises(InputError, match=r"a\.jsonl, line 1: broken JSON"):
            opened(path, tokenizer)

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

import domino_jax
from domino_jax import data
from domino_jax.data.sets import stdlib_bytes

FILES = {
    "b.py": b"two\n",
    "a.py": b"one\n",
    "pack/__init__.py": b"",
    "pack/copy_of_a.py": b"one\n",
    "pack/deep/c.py": b"\xff\x00\n",
    "pack/data.txt": b"no\n",
    "pack/__pycache__/x.py": b"no\n",
    "site-packages/x.py": b"no\n",
    "pack/dist-packages/x.py": b"no\n",
}


@pytest.fixture
def folder(tmp_path):
    """A small library."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture(scope="module")
def made():
    return data.create("stdlib_bytes")


@pytest.fixture(scope="module")
def texts():
    return stdlib_bytes._texts(Path(os.__file__).parent)


def test_files_by_path_none_twice(folder, monkeypatch):
    paths = sorted(stdlib_bytes._paths(folder), reverse=True)
    monkeypatch.setattr(stdlib_bytes, "_paths", lambda folder: paths)
    found = list(stdlib_bytes._files(folder))
    assert found == [("a.py", b"one\n"), ("b.py", b"two\n"), ("pack/deep/c.py", b"\xff\x00\n")]


def test_the_part_of_a_file_depends_on_its_path_only():
    parts = {name: stdlib_bytes._is_test(name) for name in ("os.py", "pickletools.py")}
    assert parts == {"os.py": False, "pickletools.py": True}
    names = [f"pack/module_{k}.py" for k in range(2000)]
    assert 60 < sum(map(stdlib_bytes._is_test, names)) < 140  # of 100 expected


def test_texts_by_hand(folder, monkeypatch):
    monkeypatch.setattr(stdlib_bytes, "_is_test", lambda path: path == "b.py")
    train, test = stdlib_bytes._texts(folder)
    assert (train.dtype, test.dtype) == (np.uint8, np.uint8)
    assert (train.tobytes(), test.tobytes()) == (b"one\n\0\xff\x00\n\0", b"two\n\0")


def test_windows_by_hand():
    rng = np.random.default_rng(0)
    batch = {"start": np.array([0, 6] * 40), "weight": np.ones(80)}
    moved = stdlib_bytes._start_anywhere(3, 11, batch, rng)
    assert moved["weight"] is batch["weight"]
    assert set(moved["start"][::2].tolist()) == {0, 1, 2}
    assert set(moved["start"][1::2].tolist()) == {6, 7}  # 8 would need a byte 11
    text = np.arange(100, 111, dtype=np.uint8)
    batch = {"start": np.array([0, 7]), "weight": np.ones(2)}
    cut = stdlib_bytes._cut(text, 3, batch)
    assert cut.keys() == {"inputs", "labels", "weight"}
    np.testing.assert_array_equal(cut["inputs"], [[100, 101, 102], [107, 108, 109]])
    np.testing.assert_array_equal(cut["labels"], [[101, 102, 103], [108, 109, 110]])


def test_sizes_shapes_and_types(made, texts):
    assert made.train_size == len(texts[0]) // 128
    assert (made.test_size, made.classes, made.workers) == (1024, 256, 0)
    assert made.example == jax.ShapeDtypeStruct((1, 128), np.int32)
    for batch in (made.train(0, 32)[0], next(iter(made.evaluate(32)))):
        for key in ("inputs", "labels"):
            assert batch[key].shape == (32, 128)
            assert batch[key].dtype == np.int32
        np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])


def test_no_file_is_in_both_parts(texts):
    train, test = (set(text.tobytes().split(b"\0")[:-1]) for text in texts)
    assert not train & test
    for path, content in stdlib_bytes._files(Path(os.__file__).parent):
        assert b"\0" in content or content in (test if stdlib_bytes._is_test(path) else train)
    assert 0.03 < len(test) / (len(train) + len(test)) < 0.08


def test_test_windows_are_spread_evenly_and_do_not_overlap(texts):
    made = data.create("stdlib_bytes", test_examples=10, length=4096)
    batches = list(made.evaluate(4))
    assert sum(batch["weight"].sum() for batch in batches) == 10
    rows = np.concatenate([batch["inputs"] for batch in batches])[:10].astype(np.uint8)
    test = texts[1].tobytes()
    starts = [test.index(row.tobytes()) for row in rows]
    gaps = [b - a for a, b in pairwise([*starts, len(test)])]
    assert starts[0] == 0
    assert min(gaps) >= 4096
    assert max(gaps) - min(gaps) < 3 * 4096


def test_most_test_windows_are_all_of_the_text(texts):
    most = (len(texts[1]) - 1) // 4096
    made = data.create("stdlib_bytes", test_examples=most, length=4096)
    (batch,) = made.evaluate(most)
    np.testing.assert_array_equal(batch["inputs"].ravel(), texts[1][: most * 4096])
    np.testing.assert_array_equal(batch["labels"].ravel(), texts[1][1 : most * 4096 + 1])


def test_an_epoch_reads_the_text_about_once_and_the_next_in_other_windows(texts):
    made = data.create("stdlib_bytes", length=8192)
    size = made.train_size
    batches = made.train(0, size)
    text = texts[0].tobytes()
    starts = [
        sorted(text.index(row.astype(np.uint8).tobytes()) for row in batches[epoch]["inputs"][:99])
        for epoch in (0, 1)
    ]
    assert len({start % 8192 for start in starts[0]}) > 50
    assert not set(starts[0]) & set(starts[1])
    assert len({start // 8192 for start in starts[0]}) > 60


def test_a_step_is_the_same_whenever_it_is_read(made):
    again = data.create("stdlib_bytes")
    for step in (1000, 3):
        one, other = made.train(5, 4)[step], again.train(5, 4)[step]
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
    different = made.train(6, 4)[3]
    assert (different["inputs"] != one["inputs"]).any()


def test_the_stream_resumes_at_a_step(made):
    batches = made.train(1, 4)
    running = data.stream(batches, 7)
    np.testing.assert_array_equal(next(running)["inputs"], batches[7]["inputs"])
    running.close()


def test_two_processes_share_a_batch(made):
    whole = made.train(0, 6)[2]["inputs"]
    for part in (0, 1):
        rows = made.train(0, 6, process_index=part, process_count=2)[2]["inputs"]
        np.testing.assert_array_equal(rows, whole[part::2])


def test_the_description_reads_no_file(made, monkeypatch):
    monkeypatch.setattr(stdlib_bytes, "_texts", None)
    spec = data.spec("stdlib_bytes")
    assert (spec.example, spec.label) == (made.example, made.example)
    assert (spec.classes, spec.test_size) == (256, 1024)
    assert data.spec("stdlib_bytes", length=64).train_size == 464602
    with pytest.raises(ValueError, match="length: expected a whole number"):
        data.spec("stdlib_bytes", length=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length: expected a whole number from 1 to [0-9]+, got 0"),
        ({"length": 10**9}, "length: expected a whole number from 1 to [0-9]+, got 1000000000"),
        ({"length": 12.0}, "length: .* got 12.0"),
        ({"length": True}, "length: .* got True"),
        ({"test_examples": 0}, "test_examples: expected a whole number from 1 to [0-9]+, got 0"),
        ({"test_examples": "all"}, "test_examples: .* got 'all'"),
        ({"test_examples": 10**7}, "test_examples: .* got 10000000"),
        ({"lenght": 3}, "data set 'stdlib_bytes'.*'lenght'; it takes .*length"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.create("stdlib_bytes", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_a_python_without_its_source(tmp_path, monkeypatch, exists):
    place = tmp_path if exists else tmp_path / "python311.zip"
    monkeypatch.setattr(stdlib_bytes.sysconfig, "get_path", lambda name: str(place))
    with pytest.raises(ValueError, match=r"holds too few \.py files") as caught:
        data.create("stdlib_bytes")
    assert "\n" not in str(caught.value)


def test_an_unreadable_file(folder):
    (folder / "link.py").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"cannot read Python's standard library: .*link\.py"):
        stdlib_bytes._texts(folder)


WORKERS = """
import numpy as np
import domino_jax.data

if __name__ == '__main__':
    made = domino_jax.data.create('stdlib_bytes', workers=1)
    batches = made.train(0, 4)
    running = domino_jax.data.stream(batches, 2, workers=1)
    np.testing.assert_array_equal(next(running)['inputs'], batches[2]['inputs'])
    running.close()
    print('same')
"""


def test_workers_give_the_same_batches(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(domino_jax.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", "")


def test_the_fingerprint_depends_on_every_byte(made):
    assert len(made.fingerprint) == 16
    assert data.create("stdlib_bytes", length=7).fingerprint == made.fingerprint
    seen = {made.fingerprint}
    texts = [np.arange(1, 99, dtype=np.uint8), np.arange(1, 50, dtype=np.uint8)]
    for part in (0, 1):
        texts[part] = texts[part] + np.uint8(1)
        seen.add(stdlib_bytes._fingerprint(*texts))
    assert len(seen) == 3

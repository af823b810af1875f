import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import domino_jax
from domino_jax.data import pipeline
from domino_jax.data.pipeline import evaluate_batches, stream, train_batches


def records(count):
    return [{"inputs": np.full((2,), k, np.uint8), "labels": np.int32(k)} for k in range(count)]


def noisy(record, rng):
    return {**record, "inputs": record["inputs"] + rng.integers(100, size=2)}


def labels(batches, steps):
    return [batches[step]["labels"].tolist() for step in steps]


def shown(batches, steps):
    return [label for batch in labels(batches, steps) for label in batch]


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_batch_has_the_records_fields_stacked():
    batch = train_batches(records(10), 0, 4)[0]
    assert batch["inputs"].shape == (4, 2)
    assert batch["inputs"].dtype == np.uint8
    assert batch["labels"].shape == (4,)
    assert batch["labels"].dtype == np.int32
    np.testing.assert_array_equal(batch["inputs"][:, 0], batch["labels"])


def test_finish_sees_the_whole_batch():
    batches = train_batches(records(10), 0, 4, finish=lambda b: {**b, "rows": len(b["labels"])})
    assert batches[7]["rows"] == 4


def test_a_step_is_the_same_whenever_and_in_whatever_order_it_is_read():
    first = train_batches(records(10), 3, 4, augment=noisy)
    second = train_batches(records(10), 3, 4, augment=noisy)
    late = second[1000]
    same([first[step] for step in (0, 5, 1000)], [second[0], second[5], late])


def test_seed_changes_order_and_augmentation():
    assert labels(train_batches(records(50), 0, 50), [0]) != labels(
        train_batches(records(50), 1, 50), [0]
    )
    one, two = (train_batches(records(1), seed, 1, augment=noisy)[0] for seed in (0, 1))
    assert (one["inputs"] != two["inputs"]).any()


def test_augmentation_leaves_the_order_alone_and_differs_by_epoch():
    plain, augmented = (
        train_batches(records(6), 0, 6),
        train_batches(records(6), 0, 6, augment=noisy),
    )
    assert labels(plain, range(4)) == labels(augmented, range(4))
    noise = [augmented[step]["inputs"] - augmented[step]["labels"][:, None] for step in (0, 1)]
    assert (noise[0] != noise[1]).any()


@pytest.mark.parametrize("batch", [1, 5, 15])
def test_an_epoch_shows_every_record_once_and_the_next_in_another_order(batch):
    batches = train_batches(records(15), 0, batch)
    steps = 15 // batch
    epochs = [shown(batches, range(e * steps, (e + 1) * steps)) for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(15))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_crosses_into_the_next_epoch():
    batches = train_batches(records(5), 0, 4)
    assert sorted(shown(batches, range(5))) == sorted(list(range(5)) * 4)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batch_of_one_process(count):
    whole = train_batches(records(20), 0, 6, augment=noisy)
    parts = [
        train_batches(records(20), 0, 6, augment=noisy, process_index=p, process_count=count)
        for p in range(count)
    ]
    for step in (0, 3, 9):
        for p, part in enumerate(parts):
            same([part[step]], [{k: v[p::count] for k, v in whole[step].items()}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"batch": -3}, "batch must be 1 or more, got -3"),
        ({"batch": 11}, "batch 11 is larger than the training set of 10"),
        ({"batch": 4, "seed": -1}, "seed must be 0 or more, got -1"),
        ({"batch": 4, "process_index": 2, "process_count": 2}, r"process_index 2 is not in 0..1"),
        ({"batch": 4, "process_index": -1, "process_count": 2}, r"process_index -1 is not in"),
        ({"batch": 5, "process_count": 2}, "batch 5 is not divisible by 2 processes"),
    ],
)
def test_train_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_batches(records(10), arguments.pop("seed", 0), **arguments)


def test_evaluation_by_hand():
    first, second = evaluate_batches(records(5), 3)
    assert first["labels"].tolist() == [0, 1, 2]
    assert first["weight"].tolist() == [1, 1, 1]
    assert second["labels"].tolist() == [3, 4, 0]
    assert second["weight"].tolist() == [1, 1, 0]
    assert second["weight"].dtype == np.float32
    assert second["inputs"].shape == (3, 2)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [2, 6, 14, 16, 40])
def test_evaluation_counts_every_record_once(batch, count):
    parts = [
        list(evaluate_batches(records(14), batch, process_index=p, process_count=count))
        for p in range(count)
    ]
    assert {len(part) for part in parts} == {-(-14 // batch)}
    seen = np.zeros(14)
    for each in (b for part in parts for b in part):
        assert each["labels"].shape == (batch // count,)
        np.add.at(seen, each["labels"], each["weight"])
    np.testing.assert_array_equal(seen, np.ones(14))


def test_evaluation_batch_out_of_range():
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        evaluate_batches(records(3), 0)
    with pytest.raises(ValueError, match="not divisible by 2"):
        evaluate_batches(records(3), 3, process_count=2)


@pytest.mark.parametrize("threads", [0, 1, 5])
@pytest.mark.parametrize("start", [0, 7])
def test_stream_gives_the_batches_from_a_step_on(threads, start):
    batches = train_batches(records(10), 0, 4, augment=noisy)
    same(
        take(stream(batches, start, threads=threads), 12),
        [batches[step] for step in range(start, start + 12)],
    )


def test_stream_reads_any_indexed_object_and_ends():
    batches = [{"labels": np.array([step])} for step in range(5)]
    assert [int(batch["labels"][0]) for batch in stream(batches, 2)] == [2, 3, 4]
    assert list(stream(batches, 5)) == []


def test_stream_reads_ahead():
    read = []

    class Slow:
        def __len__(self):
            return 100

        def __getitem__(self, step):
            read.append(step)
            return {"labels": np.array([step])}

    running = stream(Slow(), threads=1)
    next(running)
    deadline = time.monotonic() + 10
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.close()
    assert read[:4] == [0, 1, 2, 3]
    assert len(read) <= 5


def test_stream_passes_errors_on():
    def broken(record, rng):
        raise RuntimeError("broken record")

    with pytest.raises(RuntimeError, match="broken record"):
        next(stream(train_batches(records(4), 0, 2, augment=broken)))


@pytest.mark.parametrize("argument", ["start", "threads", "workers"])
def test_stream_arguments_out_of_range(argument):
    with pytest.raises(ValueError, match=f"{argument} must be 0 or more, got -1"):
        stream([], **{argument: -1})


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_a_left_stream_stops_its_threads():
    def left():
        running = stream(train_batches(records(4), 0, 2))
        next(running)
        assert prefetch_threads()

    left()
    gc.collect()
    deadline = time.monotonic() + 10
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetch_threads()


def test_a_closed_stream_closes_its_iterator():
    class Iterator:
        closed = False

        def __iter__(self):
            return iter([{"labels": np.zeros(1)}] * 2)

        def close(self):
            self.closed = True

    iterator = Iterator()
    running = pipeline._drain(iterator, 2, shared=False)
    next(running)
    assert not iterator.closed
    running.close()
    assert iterator.closed


def test_the_exit_hook_closes_a_stream_and_goes_with_it(monkeypatch):
    hooks = []
    monkeypatch.setattr(pipeline.atexit, "register", hooks.append)
    monkeypatch.setattr(pipeline.atexit, "unregister", hooks.remove)

    def own():
        return [hook for hook in hooks if hook.__module__ == pipeline.__name__]

    running = stream([{"labels": np.zeros(1)}])
    (close,) = own()
    close()
    assert list(running) == []
    del running
    gc.collect()
    assert own() == []


WORKERS = """
import os
import sys
import numpy as np
from domino_jax.data.pipeline import stream, train_batches

def noisy(record, rng):
    return {**record, 'inputs': record['inputs'] + rng.integers(100, size=2)}

def here(batch):
    # Were it run by a worker, a large array would go through shared memory.
    return {**batch, 'process': np.int64(os.getpid()), 'inputs': batch['inputs'] * 1.0}

if __name__ == '__main__':
    records = [{'inputs': np.full((2,), k), 'labels': np.int32(k)} for k in range(10)]
    batches = train_batches(records, 0, 4, augment=noisy, finish=here)
    workers = int(sys.argv[1])
    running = stream(batches, 3, workers=workers)
    for step in range(3, 9):
        batch = next(running)
        for key, value in batches[step].items():
            np.testing.assert_array_equal(value, batch[key])
            assert key == 'process' or type(batch[key]) is np.ndarray
        assert batch['process'] == os.getpid()
    print('same')
    if sys.argv[2] == 'interrupted':
        import signal
        # A shell may have had it ignored from the start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.killpg(0, signal.SIGINT)
"""


REPOSITORY = Path(domino_jax.__file__).parents[1]


def run_workers(tmp_path, workers, end="left open"):
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), str(workers), end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_give_the_same_batches_and_a_forgotten_stream_ends_silently(tmp_path, workers):
    done = run_workers(tmp_path, workers)
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", "")


def test_an_interrupt_is_reported_once(tmp_path):
    done = run_workers(tmp_path, 2, "interrupted")
    assert done.returncode != 0
    assert done.stderr.count("KeyboardInterrupt") == 1
    assert done.stderr.count("Traceback") == 1

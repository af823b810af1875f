"""Batches of arrays: the promises of `pipeline`, kept batch by batch."""

import numpy as np
import pytest

from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.pipeline import stream


def arrays(count):
    return {"inputs": np.repeat(np.arange(count)[:, None], 2, 1), "labels": np.arange(count)}


def noisy(batch, rng):
    return {**batch, "inputs": batch["inputs"] + rng.integers(100, size=batch["inputs"].shape)}


def shown(batches, steps):
    return [int(label) for step in steps for label in batches[step]["labels"]]


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])


def test_rows_belong_together_and_finish_sees_them_all():
    batches = train_arrays(arrays(10), 0, 4, finish=lambda b: {**b, "rows": len(b["labels"])})
    batch = batches[7]
    assert (batch["rows"], batch["inputs"].shape) == (4, (4, 2))
    np.testing.assert_array_equal(batch["inputs"][:, 0], batch["labels"])


def test_a_step_is_the_same_whenever_it_is_read():
    first, second = (train_arrays(arrays(10), 3, 4, augment=noisy) for _ in range(2))
    late = second[10**12]
    for step in (0, 5, 2):
        same(first[step], second[step])
    same(first[10**12], late)


def test_seed_and_step_change_order_and_augmentation():
    orders = [shown(train_arrays(arrays(50), seed, 50), [0]) for seed in (0, 1)]
    assert orders[0] != orders[1] != list(range(50))
    one = {"x": np.zeros((1, 9))}

    def add(batch, rng):
        return {"x": batch["x"] + rng.random(9)}

    draws = [train_arrays(one, *key, augment=add) for key in ((0, 1), (1, 1))]
    assert (draws[0][0]["x"] != draws[1][0]["x"]).all()
    assert (draws[0][0]["x"] != draws[0][1]["x"]).all()


@pytest.mark.parametrize("batch", [1, 5, 15])
def test_an_epoch_shows_every_example_once_and_the_next_in_another_order(batch):
    batches, steps = train_arrays(arrays(15), 0, batch), 15 // batch
    epochs = [shown(batches, range(e * steps, (e + 1) * steps)) for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(15))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_crosses_into_the_next_epoch():
    batches = train_arrays(arrays(5), 0, 4)
    whole = shown(batches, range(5))
    assert [sorted(whole[k : k + 5]) for k in (0, 5, 10, 15)] == [[0, 1, 2, 3, 4]] * 4


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batch_of_one_process(count):
    whole = train_arrays(arrays(20), 0, 6, augment=noisy)
    for p in range(count):
        part = train_arrays(arrays(20), 0, 6, augment=noisy, process_index=p, process_count=count)
        for step in (0, 3, 9):
            same(part[step], {key: value[p::count] for key, value in whole[step].items()})


def test_augmentation_does_not_reach_the_data():
    held = arrays(6)

    def spoil(batch, rng):
        batch["inputs"][:] = -1
        return batch

    assert (train_arrays(held, 0, 6, augment=spoil)[0]["inputs"] == -1).all()
    np.testing.assert_array_equal(held["inputs"], arrays(6)["inputs"])


@pytest.mark.parametrize("workers", [0, 1])
def test_they_can_be_streamed_from_a_step_on(workers):
    batches = train_arrays(arrays(10), 0, 4)
    running = stream(batches, 3, workers=workers)
    for step in range(3, 9):
        same(next(running), batches[step])
    running.close()


def test_evaluation_by_hand():
    first, second = evaluate_arrays(arrays(5), 3, finish=lambda b: {**b, "seen": len(b)})
    assert first["labels"].tolist() == [0, 1, 2]
    assert first["weight"].tolist() == [1, 1, 1]
    assert second["labels"].tolist() == [3, 4, 0]
    assert second["weight"].tolist() == [1, 1, 0]
    assert (second["weight"].dtype, second["seen"]) == (np.float32, 3)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [2, 6, 14, 16, 40])
def test_evaluation_counts_every_example_once(batch, count):
    parts = [
        list(evaluate_arrays(arrays(14), batch, process_index=p, process_count=count))
        for p in range(count)
    ]
    assert {len(part) for part in parts} == {-(-14 // batch)}
    seen = np.zeros(14)
    for each in (b for part in parts for b in part):
        assert each["labels"].shape == (batch // count,)
        np.add.at(seen, each["labels"], each["weight"])
    np.testing.assert_array_equal(seen, np.ones(14))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"batch": 11}, "batch 11 is larger than the training set of 10"),
        ({"batch": 4, "seed": -1}, "seed must be 0 or more, got -1"),
        ({"batch": 4, "process_index": 2, "process_count": 2}, r"process_index 2 is not in 0..1"),
        ({"batch": 5, "process_count": 2}, "batch 5 is not divisible by 2 processes"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_arrays(arrays(10), arguments.pop("seed", 0), **arguments)


def test_arrays_of_different_lengths():
    wrong = {"inputs": np.zeros(3), "labels": np.zeros(4)}
    with pytest.raises(
        ValueError, match=r"expected arrays of one length, got {'inputs': 3, 'labels': 4}"
    ):
        train_arrays(wrong, 0, 1)
    with pytest.raises(ValueError, match="got none"):
        evaluate_arrays({}, 1)

"""The losses by name, by hand and against PyTorch; those of someone else; a run with each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
import torch

from domino_jax.core.errors import InputError
from domino_jax.data.arrays import from_targets
from domino_jax.train import losses
from domino_jax.train.criteria import LOSSES, find_criterion

OUTPUTS = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
PRESENT = np.random.default_rng(1).integers(0, 2, (4, 5, 3)).astype(np.int32)
NUMBERS = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)
WEIGHT = np.float32([1, 0, 1, 1])


def mean(name, labels, smoothing=0.0, ignored=None):
    loss = losses.mean_loss(find_criterion(name), smoothing, ignored)
    return float(jax.jit(loss)(OUTPUTS, {"labels": labels}))


def means(name, labels, ignored=None):
    """Returns what an evaluation reports."""
    batch = {"labels": labels, "weight": WEIGHT}
    found = losses.totals(jnp.asarray(OUTPUTS), batch, ignored, find_criterion(name))
    return {key: float(value / found["weight"]) for key, value in found.items() if key != "weight"}


def by_torch(function, labels):
    with torch.no_grad():
        return function(torch.tensor(OUTPUTS), torch.tensor(labels), reduction="none").numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_is_that_of_pytorch(smoothing):
    binary = torch.nn.functional.binary_cross_entropy_with_logits
    each = by_torch(binary, np.float32((1 - smoothing) * PRESENT + smoothing / 2))
    assert mean("sigmoid_cross_entropy", PRESENT, smoothing) == pytest.approx(each.mean(), 1e-5)
    if not smoothing:
        rows = WEIGHT > 0
        right = (OUTPUTS > 0) == (PRESENT == 1)
        expected = {"loss": each[rows].mean(), "accuracy": right[rows].mean()}
        assert means("sigmoid_cross_entropy", PRESENT) == pytest.approx(expected, 1e-5)


def test_squared_error_is_that_of_pytorch():
    each = by_torch(torch.nn.functional.mse_loss, NUMBERS)
    assert mean("squared_error", NUMBERS) == pytest.approx(each.mean(), 1e-5)
    assert means("squared_error", NUMBERS) == pytest.approx({"loss": each[WEIGHT > 0].mean()}, 1e-5)


@pytest.mark.parametrize(
    ("name", "labels", "ignored"),
    [("sigmoid_cross_entropy", PRESENT, -1), ("squared_error", NUMBERS, -100)],
)
def test_labels_that_do_not_count_one_by_one(name, labels, ignored):
    marked = labels.copy()
    marked[:, 1:] = ignored
    alone = losses.mean_loss(find_criterion(name))(OUTPUTS[:, :1], {"labels": labels[:, :1]})
    assert mean(name, marked, ignored=ignored) == pytest.approx(float(alone), 1e-5)
    rows = WEIGHT > 0
    alone = losses.mean_loss(find_criterion(name))(
        OUTPUTS[rows][:, :1], {"labels": labels[rows][:, :1]}
    )
    assert means(name, marked, ignored)["loss"] == pytest.approx(float(alone), 1e-5)


def test_nan_is_on_no_side():
    outputs = jnp.full((4, 1), jnp.nan)
    batch = {"labels": jnp.array([[0], [1], [0], [1]]), "weight": jnp.asarray(WEIGHT)}
    found = losses.totals(outputs, batch, None, LOSSES["sigmoid_cross_entropy"])
    assert float(found["accuracy"]) == 0


def test_a_loss_of_ones_own():
    expected = np.abs(OUTPUTS - NUMBERS)
    assert mean("own_parts:absolute", NUMBERS) == pytest.approx(expected.mean(), 1e-5)
    found = means("own_parts:absolute", NUMBERS)
    assert found == pytest.approx({"loss": expected[WEIGHT > 0].mean()}, 1e-5)


@pytest.mark.parametrize(
    ("name", "labels", "options", "said"),
    [
        (
            "own_parts:of_the_batch",
            NUMBERS,
            {},
            r"of each of 4 examples, \[4, ...\], got the shape",
        ),
        (
            "own_parts:with_a_bug",
            NUMBERS,
            {},
            "loss 'own_parts:with_a_bug': AttributeError: .*own_p",
        ),
        ("own_parts:absent", NUMBERS, {}, "unknown factory of own_parts 'absent'"),
        ("sigmoid", PRESENT, {}, "unknown loss 'sigmoid'; nearest: .*sigmoid_cross_entropy"),
        ("sigmoid_cross_entropy", PRESENT[..., 0], {}, r"need labels \[4, 5, 3\]\n"),
        ("squared_error", NUMBERS[..., :1], {}, r"need labels \[4, 5, 3\]\n"),
        ("squared_error", NUMBERS, {"smoothing": 0.1}, "label_smoothing: expected 0 of this loss"),
    ],
)
def test_what_does_not_fit(name, labels, options, said):
    with pytest.raises(InputError, match=said):
        mean(name, labels, **options)


def test_a_loss_of_ones_own_must_be_of_each_label_where_some_do_not_count():
    def pooled(outputs, labels):
        return jnp.abs(outputs - labels).mean((1, 2))

    criterion = find_criterion("own_parts:absolute")._replace(
        each=lambda outputs, labels, smoothing: pooled(outputs, labels)
    )
    with pytest.raises(InputError, match=r"one for each label, \[4, 5, 3\], .*, got \[4\]"):
        losses.mean_loss(criterion, ignore_label=-1)(OUTPUTS, {"labels": NUMBERS})


def test_targets_in_memory():
    inputs = np.zeros((6, 2), np.float32)
    targets = np.arange(18.0).reshape(6, 3)
    data = from_targets((inputs, targets), (inputs, targets), ignore_label=-1)
    batch = data.train(0, 6)[0]
    assert (data.classes, data.ignore_label, batch["labels"].dtype) == (3, -1, np.float32)
    assert sorted(batch["labels"].ravel()) == list(range(18))
    whole = from_targets((inputs, targets > 3), (inputs, targets > 3))
    assert whole.train(0, 6)[0]["labels"].dtype == np.int32
    for train, said in (
        ((inputs, targets[:, 0]), "targets: train has float64\\[\\] for each example, test floa"),
        ((inputs, targets[:, :2]), "targets: train has float64\\[2\\] for each"),
        ((inputs[:5], targets), "train: 5 inputs and 6 labels"),
    ):
        with pytest.raises(InputError, match=said):
            from_targets(train, (inputs, targets))
    with pytest.raises(InputError, match=r"targets: expected \[N, ..., C\], got the shape \(6,\)"):
        from_targets((inputs, targets[:, 0]), (inputs, targets[:, 0]))


QUICK = ("search.budget=0.75", "search.calibration_batches=2", "search.method=fisher")


@pytest.mark.parametrize(
    ("loss", "data", "reported"),
    [
        ("sigmoid_cross_entropy", "own_parts:present", ["loss", "accuracy"]),
        ("own_parts:absolute", "own_parts:numbers", ["loss"]),
    ],
)
def test_a_run(tmp_path, capsys, loss, data, reported):
    options = (*QUICK, f"loss={loss}", f"data.name={data}")
    scripts.search(tmp_path, *options)
    capsys.readouterr()
    scripts.train(tmp_path, *options)
    found = scripts.results(tmp_path)["train"]
    assert all(set(found[stage]) == set(reported) for stage in ("dense", "masked", "tuned"))
    assert found["tuned"]["loss"] < 0.6  # 0.69 and 1 of a network that knows nothing
    heading = next(line for line in capsys.readouterr().out.splitlines() if "loss" in line)
    assert ("accuracy" in heading) == ("accuracy" in reported)
    with pytest.raises(InputError, match=f"loss '{loss}' there, 'squared_error' here"):
        scripts.train(tmp_path, *QUICK, "loss=squared_error", f"data.name={data}")


def test_a_loss_that_is_not_there_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="loss 'nowhere:loss': cannot import nowhere"):
        scripts.search(tmp_path, "loss=nowhere:loss")
    assert not (tmp_path / "dense").exists()


def test_smoothing_of_a_loss_that_has_none(tmp_path):
    with pytest.raises(InputError, match=r"dense.label_smoothing: expected 0 of loss='squared_err"):
        scripts.search(tmp_path, "loss=squared_error", "dense.label_smoothing=0.1")

"""Losses and counts against numbers by hand and against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.train import losses

LOG3 = float(np.log(3))
# Softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) one half each.
OUTPUTS = jnp.array([[LOG3, 0.0], [0.0, LOG3], [0.0, 0.0]])
LABELS = jnp.array([0, 0, 1])
QUARTERS = [np.log(4 / 3), np.log(4), np.log(2)]


def cross_entropy(outputs, labels, smoothing=0.0):
    return jax.jit(losses.cross_entropy(smoothing))(outputs, {"labels": labels})


totals = jax.jit(losses.totals)


def by_numpy(outputs, labels, smoothing=0.0):
    """Cross-entropy of every position."""
    outputs = np.asarray(outputs, np.float64)
    logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    targets = np.eye(outputs.shape[-1])[labels]
    targets = (1 - smoothing) * targets + smoothing / outputs.shape[-1]
    return -(targets * logs).sum(-1)


def test_cross_entropy_by_hand():
    loss = cross_entropy(OUTPUTS, LABELS)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(np.mean(QUARTERS))


def test_label_smoothing_by_hand():
    # Targets (0.9, 0.1): the second position pays 0.1 of its own class's price.
    loss = cross_entropy(OUTPUTS[:1], LABELS[:1], 0.2)
    assert float(loss) == pytest.approx(0.9 * np.log(4 / 3) + 0.1 * np.log(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_cross_entropy_of_images_and_tokens(shape, smoothing):
    rng = np.random.default_rng(len(shape))
    outputs, labels = rng.normal(size=(*shape, 7)) * 3, rng.integers(0, 7, shape)
    found = cross_entropy(jnp.float32(outputs), jnp.int32(labels), smoothing)
    assert float(found) == pytest.approx(by_numpy(outputs, labels, smoothing).mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.5, float("nan")])
def test_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing: expected a number in \[0, 1\), got"):
        losses.cross_entropy(smoothing)


def test_huge_outputs_stay_finite():
    outputs = jnp.array([[1e4, -1e4]])
    for smoothing, expected in ((0.0, 2e4), (0.5, 1.5e4)):
        loss = losses.cross_entropy(smoothing)
        value, grads = jax.jit(jax.value_and_grad(loss))(outputs, {"labels": jnp.array([1])})
        assert float(value) == pytest.approx(expected)
        assert np.isfinite(np.asarray(grads)).all()


def test_totals_by_hand():
    batch = {"labels": LABELS, "weight": jnp.array([1.0, 1.0, 1.0])}
    found = totals(OUTPUTS, batch)
    # The third row is a tie: the first class counts as the prediction.
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"accuracy": 1.0, "loss": sum(QUARTERS), "weight": 3.0}
    )


def test_padding_counts_for_nothing():
    outputs = jnp.concatenate([OUTPUTS, jnp.full((2, 2), 1e6)])
    batch = {"labels": jnp.array([0, 0, 1, 0, 1]), "weight": jnp.array([1.0, 0.0, 1.0, 0.0, 0.0])}
    found = totals(outputs, batch)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"accuracy": 1.0, "loss": QUARTERS[0] + QUARTERS[2], "weight": 2.0}
    )


def test_totals_of_tokens():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4))
    batch = {"labels": jnp.int32(labels), "weight": jnp.array([1.0, 0.0, 1.0])}
    found = totals(jnp.float32(outputs), batch)
    rows = [0, 2]
    assert float(found["weight"]) == 8
    assert float(found["accuracy"]) == (outputs.argmax(-1) == labels)[rows].sum()
    assert float(found["loss"]) == pytest.approx(by_numpy(outputs, labels)[rows].sum(), rel=1e-5)


def test_totals_of_bfloat16_are_float32():
    batch = {"labels": LABELS, "weight": jnp.ones(3)}
    outputs = OUTPUTS.astype(jnp.bfloat16)
    found = totals(outputs, batch)
    assert {value.dtype for value in found.values()} == {jnp.dtype(jnp.float32)}
    expected = by_numpy(outputs.astype(jnp.float32), np.asarray(LABELS)).sum()
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-6)


def test_top5_by_hand():
    # Class 10 beats classes 9 to 0; label 6 is the fifth, label 5 the sixth.
    rising = jnp.tile(jnp.arange(11.0), (3, 1))
    batch = {"labels": jnp.array([10, 6, 5]), "weight": jnp.ones(3)}
    found = totals(rising, batch)
    assert (float(found["accuracy"]), float(found["top5"])) == (1, 2)
    # All equal: the five lower classes count, as the lowest counts as the prediction.
    batch = {"labels": jnp.array([0, 4, 5]), "weight": jnp.ones(3)}
    found = totals(jnp.zeros((3, 11)), batch)
    assert (float(found["accuracy"]), float(found["top5"])) == (1, 2)


def test_top5_of_ten_classes_is_left_out():
    assert "top5" not in totals(jnp.zeros((3, 10)), {"labels": LABELS, "weight": jnp.ones(3)})


@pytest.mark.parametrize("shape", [(40,), (20, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_top5_is_that_of_top_k(shape, dtype):
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.integers(0, 9, (*shape, 30)), dtype)  # many ties
    labels = rng.integers(0, 30, shape).astype(np.int32)
    weight = rng.integers(0, 2, shape[0]).astype(np.float32)
    _, best = jax.lax.top_k(outputs, 5)
    hits = (np.asarray(best) == labels[..., None]).any(-1)
    found = totals(outputs, {"labels": jnp.asarray(labels), "weight": jnp.asarray(weight)})
    assert float(found["top5"]) == hits[weight == 1].sum()
    assert found["top5"].dtype == jnp.float32


def test_nan_is_never_among_the_top5():
    outputs = jnp.full((2, 11), jnp.nan).at[1, 0].set(1.0)
    found = totals(outputs, {"labels": jnp.array([3, 0]), "weight": jnp.ones(2)})
    assert float(found["top5"]) == 0


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (), (3,), (4, 2)])
def test_labels_of_another_shape(shape):
    batch = {"labels": jnp.zeros(shape, jnp.int32), "weight": jnp.ones(4)}
    said = rf"int32\[.*outputs \[4, 3\] need labels \[4\]{'; one-hot' if shape == (4, 3) else '$'}"
    for loss in (losses.cross_entropy(), losses.cross_entropy(0.1), losses.totals):
        with pytest.raises(ValueError, match=said):
            loss(jnp.zeros((4, 3)), batch)


@pytest.mark.parametrize("classes", [2, 11])
def test_nan_is_never_right(classes):
    """Also not for class 0, which argmax takes for the largest where all or the first are NaN."""
    rows = [jnp.full(classes, jnp.nan), jnp.zeros(classes).at[0].set(jnp.nan)]
    rows.append(jnp.zeros(classes).at[0].set(1.0).at[1].set(jnp.nan))
    rows.append(jnp.arange(float(classes)))  # without NaN
    found = totals(
        jnp.stack(rows), {"labels": jnp.array([0, 0, 0, classes - 1]), "weight": jnp.ones(4)}
    )
    assert float(found["accuracy"]) == 1


@pytest.mark.parametrize("ignored", [-100, 255, 3, -1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_a_label_that_does_not_count(shape, smoothing, ignored):
    """As PyTorch's `ignore_index`: the mean is over the others, whose gradients are as without."""
    rng = np.random.default_rng(1)
    outputs, labels = jnp.float32(rng.normal(size=(*shape, 5)) * 3), rng.integers(0, 3, shape)
    left_out = rng.random(shape) < 0.4
    marked = jnp.int32(np.where(left_out, ignored, labels))
    loss = losses.cross_entropy(smoothing, ignored)
    value, grads = jax.value_and_grad(loss)(outputs, {"labels": marked})
    wanted = by_numpy(outputs, labels, smoothing)[~left_out].mean()
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    assert np.all(np.asarray(grads)[left_out] == 0)
    kept = {"labels": jnp.int32(labels[~left_out])}
    alone = jax.grad(losses.cross_entropy(smoothing))(outputs[~left_out], kept)
    np.testing.assert_allclose(np.asarray(grads)[~left_out], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_ignored_labels_are_loss_0_and_gradient_0(smoothing):
    loss = losses.cross_entropy(smoothing, -100)
    value, grads = jax.value_and_grad(loss)(OUTPUTS, {"labels": jnp.full(3, -100)})
    assert float(value) == 0
    np.testing.assert_array_equal(grads, 0)


def test_unsigned_labels_have_no_negative_one():
    labels = jnp.array([0, 0, 1], jnp.uint8)
    for ignored, wanted in ((-100, np.mean(QUARTERS)), (1, np.mean(QUARTERS[:2]))):
        found = losses.cross_entropy(ignore_label=ignored)(OUTPUTS, {"labels": labels})
        assert float(found) == pytest.approx(wanted)


def test_totals_leave_the_ignored_label_out():
    rng = np.random.default_rng(2)
    outputs, labels = jnp.float32(rng.normal(size=(4, 6, 12))), rng.integers(0, 12, (4, 6))
    left_out = rng.random((4, 6)) < 0.5
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    marked = {"labels": jnp.int32(np.where(left_out, 255, labels)), "weight": weight}
    found = losses.totals(outputs, marked, 255)
    keep = ~left_out[:3]
    rows = {"labels": jnp.int32(labels[:3][keep]), "weight": jnp.ones(keep.sum())}
    for name, value in losses.totals(outputs[:3][keep], rows).items():
        assert float(found[name]) == pytest.approx(float(value)), name

import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.train import evaluation


def test_evaluate_counts_each_example_once():
    # Class 1 wins where x > 0. Five examples in batches of two, the last one filled up.
    def net(params, stats, inputs, *, train, key):
        assert not train
        return jnp.concatenate([jnp.zeros_like(inputs), inputs * params + stats], axis=1), stats

    x, labels = np.float32([1, -1, 2, 3, -3, 9]), np.int32([1, 0, 0, 1, 1, 0])
    weight = np.float32([1, 1, 1, 1, 1, 0])
    batches = [
        {"inputs": x[i : i + 2, None], "labels": labels[i : i + 2], "weight": weight[i : i + 2]}
        for i in (0, 2, 4)
    ]
    found = evaluation.evaluate(
        evaluation.eval_step(net), jnp.float32(2), jnp.float32(0), iter(batches)
    )
    margins = 2 * np.where(labels == 1, x, -x)[:5]
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "loss": np.log1p(np.exp(-margins)).mean()}, rel=1e-5
    )


def test_evaluate_of_many_classes_has_the_top5():
    def net(params, stats, inputs, *, train, key):
        return jnp.tile(jnp.arange(12.0), (len(inputs), 1)), stats

    labels = jnp.arange(12, dtype=jnp.int32)
    batch = {"inputs": jnp.zeros((12, 1)), "labels": labels, "weight": jnp.ones(12)}
    found = evaluation.evaluate(evaluation.eval_step(net), {}, {}, [batch, batch])
    assert list(found) == ["loss", "accuracy", "top5"]
    assert (found["accuracy"], found["top5"]) == (1 / 12, 5 / 12)


def test_recalibrate_changes_the_statistics_only():
    def net(params, stats, inputs, *, train, key):
        assert train
        return inputs @ params, {"mean": 0.9 * stats["mean"] + 0.1 * inputs.mean(0)}

    x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    weights, old = jnp.ones((4, 1)), {"mean": jnp.zeros(4)}
    batches = [{"inputs": x}, {"inputs": 2 * x}, {"inputs": x}]
    found = evaluation.recalibrate(net, weights, old, batches)
    np.testing.assert_allclose(found["mean"], x[0] * (0.081 + 0.18 + 0.1), rtol=1e-6)
    assert np.asarray(weights).tolist() == [[1.0]] * 4
    assert np.asarray(old["mean"]).tolist() == [0] * 4


def test_a_test_set_of_ignored_labels_alone_is_refused():
    batch = {"inputs": jnp.ones((2, 3)), "labels": jnp.full(2, 255), "weight": jnp.ones(2)}
    step = evaluation.eval_step(lambda params, stats, x, **_: (x, stats), 255)
    with pytest.raises(ValueError, match="no label of the test set counts: all of them are ign"):
        evaluation.evaluate(step, {}, {}, [batch])
    some = {**batch, "labels": jnp.array([255, 0])}
    found = evaluation.evaluate(step, {}, {}, [batch, some])
    assert (found["accuracy"], found["loss"]) == (1, pytest.approx(np.log(3)))

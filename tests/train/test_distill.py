"""Distillation against its formula in numpy, for classes and for tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.core.errors import InputError
from domino_jax.train.distill import distilled, teaching
from domino_jax.train.losses import cross_entropy

RNG = np.random.default_rng(0)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def in_numpy(outputs, teacher, labels, weight, temperature):
    labels_part = -np.take_along_axis(log_softmax(outputs), labels[..., None], -1).mean()
    ours, theirs = log_softmax(outputs / temperature), log_softmax(teacher / temperature)
    divergence = (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
    return (1 - weight) * labels_part + weight * temperature**2 * divergence


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5)])
@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 2.0), (1.0, 1.0)])
def test_the_formula(shape, weight, temperature):
    outputs, teacher = RNG.normal(size=(2, *shape))
    labels = RNG.integers(0, 5, shape[:-1])
    loss = distilled(cross_entropy(), weight, temperature)
    with jax.enable_x64(True):
        batch = {"labels": jnp.asarray(labels), "teacher": jnp.asarray(teacher)}
        found = float(loss(jnp.asarray(outputs), batch))
    assert found == pytest.approx(in_numpy(outputs, teacher, labels, weight, temperature), rel=1e-9)


def test_tokens_that_do_not_count_have_no_teacher():
    outputs, teacher = RNG.normal(size=(2, 2, 3, 5)).astype(np.float32)
    labels = np.array([[1, 2, -1], [-1, -1, -1]], np.int32)
    loss = distilled(cross_entropy(ignore_label=-1), 0.5, 2.0, ignore_label=-1)
    found = loss(jnp.asarray(outputs), {"labels": jnp.asarray(labels), "teacher": teacher})
    expected = in_numpy(outputs[:1, :2], teacher[:1, :2], labels[:1, :2], 0.5, 2.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_at_the_teacher_is_none():
    outputs = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
    batch = {"labels": jnp.array([0, 1, 2]), "teacher": outputs}
    grads = jax.grad(distilled(cross_entropy(), 1.0, 3.0))(outputs, batch)
    np.testing.assert_allclose(grads, 0, atol=1e-6)


def test_a_teacher_of_another_shape_is_refused():
    batch = {"labels": jnp.array([0, 1]), "teacher": jnp.ones((2, 4))}
    with pytest.raises(InputError, match=r"teacher with outputs \[2, 3\], .* got \[2, 4\]"):
        distilled(cross_entropy(), 0.5, 2.0)(jnp.ones((2, 3)), batch)


@pytest.mark.parametrize(("weight", "temperature"), [(1.5, 1.0), (0.5, 0.0), (-0.1, 1.0)])
def test_impossible_settings_are_refused(weight, temperature):
    with pytest.raises(InputError, match=r"train\.distill, train\.temperature: expected"):
        distilled(cross_entropy(), weight, temperature)


def test_the_teacher_evaluates():
    def apply(params, stats, inputs, *, train, key):
        return inputs * params + stats + (100 if train else 0), stats + 1

    batch = {"inputs": jnp.ones((2, 3)), "labels": jnp.array([0, 1])}
    taught = teaching(apply, jnp.float32(2), jnp.float32(1))(batch)
    assert taught["teacher"].tolist() == [[3.0] * 3] * 2
    assert set(taught) == {"inputs", "labels", "teacher"}

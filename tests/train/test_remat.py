"""A gradient that keeps the outputs of products alone: the same numbers, fewer bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax import models
from domino_jax.models.decoder import logits, shapes
from domino_jax.models.decoder_config import read_config
from domino_jax.trace.layers import find_layers
from domino_jax.train.remat import recomputing

KEY = jax.random.key(0)


def scanned():
    """Has its blocks under a scan."""
    document = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 48}
    document |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    config = read_config(document)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype),
        shapes(config, jnp.float32),
    )
    apply = models.plain(lambda p, x: logits(config, p, x, dtype=None), params).apply
    return models.Model(apply, params, {}), np.zeros((2, 32), np.int32)


def of_name(name, example, **options):
    spec = jax.ShapeDtypeStruct(example.shape, example.dtype)
    model = models.create(name, example=spec, classes=16, seed=0, **options)
    return model, np.repeat(example, 4, 0)


NETWORKS = {
    "scanned": scanned,
    "resnet8": lambda: of_name("resnet8", np.ones((1, 16, 16, 3), np.float32)),
    "byte_lm": lambda: of_name("byte_lm", np.ones((1, 32), np.uint8), width=16, depth=1, heads=2),
}


def backward(apply, model, inputs):
    """Makes params -> the pass back from the outputs, and what it keeps."""
    return lambda params: jax.vjp(
        lambda p: apply(p, model.stats, inputs, train=True, key=KEY)[0], params
    )[1]


def kept_bytes(apply, model, inputs):
    """Counts what a gradient keeps besides the weights."""
    kept = jax.tree.leaves(jax.eval_shape(backward(apply, model, inputs), model.params))
    weights = {leaf.shape for leaf in jax.tree.leaves(model.params)}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept if leaf.shape not in weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_kept(name):
    model, inputs = NETWORKS[name]()
    before, after = (kept_bytes(f, model, inputs) for f in (model.apply, recomputing(model.apply)))
    assert after < 0.7 * before


def test_gradients_are_the_same_in_less_memory():
    """Blocks under a scan: the compiler's own analysis, and what it compiled."""
    model, tokens = scanned()

    def compiled(apply):
        def loss(params):
            outputs, _ = apply(params, {}, tokens, train=True, key=KEY)
            return jnp.square(outputs).sum()

        return jax.jit(jax.grad(loss)).lower(model.params).compile()

    plain, again = compiled(model.apply), compiled(recomputing(model.apply))
    needed = [each.memory_analysis().temp_size_in_bytes for each in (plain, again)]
    assert needed[1] < 0.7 * needed[0]
    leaves = (jax.tree.leaves(each(model.params)) for each in (plain, again))
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_scores_of_attention_are_made_anew():
    """They are as large as two positions are many, and products too, but of no weight."""
    model, tokens = scanned()
    positions = tokens.shape[1]

    def scores(apply):
        kept = jax.tree.leaves(jax.eval_shape(backward(apply, model, tokens), model.params))
        return [leaf.shape for leaf in kept if leaf.shape.count(positions) > 1]

    assert scores(model.apply)
    assert not scores(recomputing(model.apply))


def test_a_scan_from_the_end():
    def apply(params, stats, inputs, *, train, key):
        scan = jax.lax.scan(lambda h, t: (0.5 * h + t @ params, h), inputs[0], inputs, reverse=True)
        return scan[1], stats

    inputs = jnp.arange(12.0).reshape(3, 2, 2)
    found = [f(jnp.eye(2), {}, inputs, train=True, key=KEY)[0] for f in (apply, recomputing(apply))]
    np.testing.assert_array_equal(*found)


def test_the_trace_sees_through():
    model, tokens = scanned()

    def layers(apply):
        def forward(params, inputs):
            return apply(params, {}, inputs, train=False, key=KEY)[0]

        return find_layers(forward, model.params, tokens[:1], 4)

    assert layers(recomputing(model.apply)) == layers(model.apply)

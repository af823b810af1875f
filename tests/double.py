"""The network of tiny.py in float64, for JAX_ENABLE_X64=1: --config=tests/double.py.

Without noise, which would depend on the order of the examples in a batch.
"""

import jax
import jax.numpy as jnp
import tiny

from domino_jax.models import Model


def get_config():
    config = tiny.get_config()
    config.model.name = "double:network"
    return config


def network(*, example, classes, seed):
    model = tiny.network(example=example, classes=classes, seed=seed, noise=0.0)
    wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)  # noqa: E731

    def apply(params, stats, inputs, *, train, key):
        return model.apply(params, stats, inputs.astype(jnp.float64), train=train, key=key)

    return Model(apply, wide(model.params), wide(model.stats))

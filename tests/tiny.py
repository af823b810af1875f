"""A config file with a network and data of its own, for runs of a second: --config=tests/tiny.py.

The network has batch statistics and noise: a run depends on all that a checkpoint must hold.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from domino_jax.data.arrays import from_arrays
from domino_jax.models import Model
from domino_jax.run.settings import defaults


def get_config():
    config = defaults()
    config.log_every = 5
    config.checkpoint_every = 10
    config.model.name = "tiny:network"
    config.data.name = "tiny:blobs"
    config.dense.update(epochs=2.0, warmup_epochs=0.0, batch=16)
    config.search.update(
        m=4, budget=0.5, vote_every=2, penalty=10.0, penalty_doubles_at=(), max_steps=500, batch=16
    )
    config.train.update(epochs=2.0, warmup_epochs=0.5, lr=0.05, batch=16)
    return config


def network(*, example, classes, seed, noise=0.01):
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        scale = (2 / np.prod(shape[:-1])) ** 0.5
        return {"kernel": jnp.asarray(scale * rng.normal(size=shape), jnp.float32)}

    channels = example.shape[-1]
    params = {
        "stem": kernel(3, 3, channels, 8),
        "body": kernel(3, 3, 8, 16),
        "fc": kernel(16, classes),
    }

    def convolve(inputs, layer):
        return lax.conv_general_dilated(
            inputs, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(params, stats, inputs, *, train, key):
        hidden = jax.nn.relu(convolve(inputs, params["stem"]))
        mean = hidden.mean((0, 1, 2), keepdims=True) if train else stats["mean"]
        hidden = convolve(hidden - mean, params["body"])
        if train:
            hidden = hidden + noise * jax.random.normal(key, hidden.shape)
            stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean}
        return jax.nn.relu(hidden).mean((1, 2)) @ params["fc"]["kernel"], stats

    return Model(apply, params, {"mean": jnp.zeros((1, 1, 1, 8))})


def blobs(*, data_dir, workers):
    del data_dir, workers
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 320)
    centers = rng.normal(size=(3, 4, 4, 4))
    inputs = (centers[labels] + rng.normal(size=(320, 4, 4, 4))).astype(np.float32)
    return from_arrays((inputs[:240], labels[:240]), (inputs[240:], labels[240:]), classes=3)

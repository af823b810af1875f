"""A small network, data and config of one's own; and all that can be wrong with such.

As a config file: --config=tests/own.py. READ counts what was read of the data.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.data.arrays import from_arrays
from domino_jax.data.pipeline import train_batches
from domino_jax.models import Model, plain
from domino_jax.run.settings import defaults

READ = []
SPOILED = 3  # in no phase among the first batch of 16


def get_config():
    config = defaults()
    config.log_every = 5
    config.model.name = "own:network"
    config.data.name = "own:data"
    config.dense.update(epochs=2.0, warmup_epochs=0.0, batch=16)
    config.search.update(
        m=4,
        budget=0.6,
        rules=(("stem", "flatten"),),
        vote_every=2,
        penalty=10.0,
        penalty_doubles_at=(),
        batch=16,
    )
    config.train.update(epochs=2.0, warmup_epochs=1.0, lr=0.05, batch=16)
    return config


def network(*, example, classes, seed, features=8):
    """Has a stem of 3 channels, no multiple of M = 4: it is dense without the rule 'flatten'."""
    shapes = {"stem": (3, 3, 3, 8), "hidden": (8, features), "head": (features, classes)}
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        name: {"kernel": jax.random.normal(key, shape) * np.prod(shape[:-1]) ** -0.5}
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def apply(params, x):
        kernels = {name: layer["kernel"] for name, layer in params.items()}
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernels["stem"], (1, 1), "SAME", dimension_numbers=numbers
        )
        x = jax.nn.relu(x).mean((1, 2))
        return jax.nn.relu(x @ kernels["hidden"]) @ kernels["head"]

    assert example.shape == (1, 4, 4, 3)
    return plain(apply, params)


def data(*, data_dir, workers, labels=3):
    rng = np.random.default_rng(0)
    answers = rng.integers(0, labels, 80)
    images = rng.normal(size=(80, 4, 4, 3)) + answers[:, None, None, None]
    images = images.astype(np.float32)
    made = from_arrays((images[:64], answers[:64]), (images[64:], answers[64:]), classes=labels)

    def train(*arguments, **options):
        READ.append("train")
        return made.train(*arguments, **options)

    def evaluate(*arguments, **options):
        READ.append("evaluate")
        return made.evaluate(*arguments, **options)

    return made._replace(train=train, evaluate=evaluate)


def wider(*, example, classes, seed):
    return network(example=example, classes=classes, seed=seed, features=16)


def renamed(*, example, classes, seed):
    model = network(example=example, classes=classes, seed=seed)

    def apply(params, *arguments, **options):
        return model.apply({**params, "hidden": params["middle"]}, *arguments, **options)

    params = {**model.params, "middle": model.params["hidden"]}
    del params["hidden"]
    return Model(apply, params, {})


def narrow(*, example, classes, seed):
    return network(example=example, classes=classes - 1, seed=seed)


def no_pair(*, example, classes, seed):
    model = network(example=example, classes=classes, seed=seed)
    return model._replace(apply=lambda *a, **options: model.apply(*a, **options)[0])


def other_stats(*, example, classes, seed):
    model = network(example=example, classes=classes, seed=seed)

    def apply(params, stats, x, *, train, key):
        return model.apply(params, {}, x, train=train, key=key)[0], {"mean": jnp.zeros(3)}

    return Model(apply, model.params, {"mean": jnp.zeros(2)})


def number(*, example, classes, seed):
    return 3


def seedless(*, example, classes):
    return network(example=example, classes=classes, seed=0)


def with_bug(*, example, classes, seed):
    return None + 1


def without_file(*, data_dir, workers):
    return open("nowhere.npy")  # noqa: PTH123


def refusing(*, data_dir, workers):
    raise ValueError


def flat_data(*, data_dir, workers):
    x = np.zeros((64, 5), np.float32)
    return from_arrays((x, np.arange(64) % 3), (x, np.arange(64) % 3), classes=3)


def _plain(apply):
    """Makes a factory of `network` with another forward pass, `apply(its own, params, x)`."""

    def factory(*, example, classes, seed):
        model = network(example=example, classes=classes, seed=seed)
        forward = lambda p, x: model.apply(p, {}, x, train=True, key=None)[0]  # noqa: E731
        return plain(lambda params, x: apply(forward, params, x), model.params)

    return factory


def _branch(forward, params, x):
    return forward(params, x) if x.sum() > 0 else forward(params, -x)


transposed = _plain(lambda forward, params, x: forward(params, jnp.moveaxis(x, 3, 1)))
branching = _plain(_branch)
on_host = _plain(lambda forward, params, x: forward(params, np.asarray(x)))
only_one = _plain(lambda forward, params, x: forward(params, x.reshape(1, 4, 4, 3)))
summed = _plain(lambda forward, params, x: forward(params, x).sum(0))


def no_keywords(*, example, classes, seed):
    model = network(example=example, classes=classes, seed=seed)
    return Model(lambda params, stats, x: (x, stats), model.params, {})


def only_training(*, example, classes, seed):
    model = network(example=example, classes=classes, seed=seed)

    def apply(params, stats, x, *, train, key):
        return model.apply(params, stats, x if train else x[0], train=train, key=key)

    return Model(apply, model.params, {})


def with_steps(*, example, classes, seed, kind=int):
    """Has a parameter beside the kernels: a Python number."""
    model = network(example=example, classes=classes, seed=seed)

    def apply(params, x):
        own = {name: leaf for name, leaf in params.items() if name != "k"}
        return model.apply(own, {}, x, train=True, key=None)[0] * params["k"]

    return plain(apply, {**model.params, "k": kind(1)})


def with_float(*, example, classes, seed):
    return with_steps(example=example, classes=classes, seed=seed, kind=float)


def with_text(*, example, classes, seed):
    return with_steps(example=example, classes=classes, seed=seed, kind=str)


def one_hot(*, data_dir, workers):
    rng = np.random.default_rng(0)
    part = (
        rng.normal(size=(64, 4, 4, 3)).astype(np.float32),
        np.eye(3, dtype=int)[np.arange(64) % 3],
    )
    return from_arrays(part, part, classes=3)


def columns(*, data_dir, workers):
    rng = np.random.default_rng(0)
    part = rng.normal(size=(64, 4, 4, 3)).astype(np.float32), np.arange(64)[:, None] % 3
    return from_arrays(part, part, classes=3)


def float_labels(*, data_dir, workers):
    made = data(data_dir=data_dir, workers=workers)
    images = np.zeros((8, 4, 4, 3), np.float32)
    from_arrays((images, np.zeros(8)), (images, np.zeros(8)), classes=3)
    return made


def fewer_classes(*, data_dir, workers):
    """Says that there are two classes, but gives labels of three."""
    return data(data_dir=data_dir, workers=workers)._replace(classes=2)


def high_labels(*, data_dir, workers):
    images = np.zeros((8, 4, 4, 3), np.float32)
    return from_arrays((images, np.arange(8)), (images, np.arange(8)), classes=3)


class Failing:
    """Batches that fail, each in the same line."""

    def __len__(self):
        return 100

    def __getitem__(self, step):
        return {}["lost"]


def failing(*, data_dir, workers):
    return data(data_dir=data_dir, workers=workers)._replace(train=lambda *a, **k: Failing())


def unfinished(*, data_dir, workers):
    """Can be trained on, and fails in the evaluation after it."""

    def evaluate(*arguments, **options):
        yield 1 / 0

    return data(data_dir=data_dir, workers=workers)._replace(evaluate=evaluate)


def unreadable(*, data_dir, workers):
    def train(*arguments, **options):
        raise RuntimeError("no disk")

    return data(data_dir=data_dir, workers=workers)._replace(train=train)


def endless(*, data_dir, workers):
    return data(data_dir=data_dir, workers=workers)._replace(train_size=10**10)


def one_nan(*, data_dir, workers):
    """Has one spoiled image in 64."""
    images = np.random.default_rng(0).normal(size=(64, 4, 4, 3)).astype(np.float32)
    labels = np.arange(64) % 3
    spoiled = images.copy()
    spoiled[SPOILED] = np.nan
    records = [{"inputs": x, "labels": y} for x, y in zip(spoiled, labels, strict=True)]
    whole = from_arrays((images, labels), (images, labels), classes=3)
    return whole._replace(train=partial(train_batches, records))

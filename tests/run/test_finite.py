"""Nothing that is not finite comes in, is saved or is reported."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scripts
import tiny

from domino_jax.core.errors import InputError
from domino_jax.data.arrays import from_arrays
from domino_jax.data.pipeline import evaluate_batches
from domino_jax.run import checkpoint
from domino_jax.train.trainer import keep_largest
from domino_jax.train.trainers import make_trainer


def parts():
    network = tiny.network(example=np.zeros((1, 4, 4, 4), np.float32), classes=3, seed=0)
    params = {name: {"kernel": np.array(leaf["kernel"])} for name, leaf in network.params.items()}
    return {"params": params, "stats": {"mean": np.array(network.stats["mean"])}}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("path", ["params/body/kernel", "stats/mean"])
def test_a_dense_network_is_refused(value, path, tmp_path):
    saved = parts()
    leaf = saved["stats"]["mean"] if path == "stats/mean" else saved["params"]["body"]["kernel"]
    leaf[0, 0, 0, 0] = value
    checkpoint.save(tmp_path / "init", 3, saved)
    with pytest.raises(InputError, match=rf"init: expected finite .* in '{path}'"):
        scripts.search(tmp_path / "run", f"init={tmp_path / 'init'}")


def with_broken_norm(*, example, classes, seed):
    network = tiny.network(example=example, classes=classes, seed=seed)
    return network._replace(stats={"mean": jnp.full((1, 1, 1, 8), jnp.nan)})


def test_a_fresh_network_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model '.*:with_broken_norm': .*'stats/me"):
        scripts.search(tmp_path, f"model.name={__name__}:with_broken_norm")


def ending_badly(training):
    trainer = make_trainer("sr_ste", training)

    def finish(params, state, n):
        sparse = keep_largest(params, training.layers, n)
        return sparse | {"fc": {"kernel": sparse["fc"]["kernel"] / 0}}

    return trainer._replace(finish=finish)


def with_broken_test(*, data_dir, workers):
    data = tiny.blobs(data_dir=data_dir, workers=workers)
    inputs = np.full((4, 4, 4), np.inf, np.float32)
    records = [{"inputs": inputs, "labels": np.int32(0)}] * data.test_size
    return data._replace(evaluate=lambda *args, **kw: evaluate_batches(records, *args, **kw))


def overflowing(*, example, classes, seed):
    network = tiny.network(example=example, classes=classes, seed=seed)

    def apply(params, stats, inputs, *, train, key):
        outputs, stats = network.apply(params, stats, inputs, train=train, key=key)
        return outputs if train else outputs * jnp.float32(1e38) * 10, stats

    return network._replace(apply=apply)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.method={}:ending_badly", r"trainer '.*:ending_badly': expected .* in 'fc/kernel'"),
        ("data.name={}:with_broken_test", r"test batch 0 of the data: expected finite inputs"),
        ("model.name={}:overflowing", r"evaluation, numbers on the test set: .* in 'loss'"),
    ],
)
def test_what_would_be_reported_is_refused(setting, words, tmp_path):
    """And the JSON that is there is what any reader of JSON takes."""
    few = ("dense.epochs=0.2", "train.epochs=0.2", "train.warmup_epochs=0", "search.method=uniform")
    settings = (setting.format(__name__), *few)
    scripts.search(tmp_path, *settings)
    with pytest.raises(InputError, match=words):
        scripts.train(tmp_path, *settings)
    strict = {"parse_constant": pytest.fail}
    assert "train" not in json.loads((tmp_path / "results.json").read_text(), **strict)
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text(), **strict)


def test_arrays_are_refused():
    inputs, labels = np.zeros((3, 2), np.float32), np.arange(3)
    broken = inputs.copy()
    broken[1, 0] = np.inf
    with pytest.raises(InputError, match=r"^test: inputs: expected finite numbers"):
        from_arrays((inputs, labels), (broken, labels), classes=3)

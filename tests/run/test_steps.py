"""What the steps of the scripts are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import scripts

from domino_jax.core import compiling
from domino_jax.run import experiment, steps


def test_the_compiler_is_told_of_large_images(monkeypatch, tmp_path):
    exp = experiment.build(scripts.settings(), tmp_path, lambda: False)
    told = []
    monkeypatch.setattr(compiling, "_without_ynnpack", lambda: {"one": "option"})
    monkeypatch.setattr(
        steps, "trainer_step", lambda *_, compiler_options, **__: told.append(compiler_options)
    )
    for size in (8, 32):
        example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        data = exp.data._replace(example=example)
        steps.dense_parts(dataclasses.replace(exp, data=data))
    assert told == [None, {"one": "option"}]

"""Models by name, from plain functions and from a user's own NNX modules."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from domino_jax import models
from domino_jax.core.errors import InputError
from domino_jax.core.paths import leaves_by_path
from domino_jax.trace.layers import find_layers

EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)


class Tagger(nnx.Module):
    """Batch norm, dropout, a list and a variable of its own."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def _inputs() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), jnp.float32)


def test_plain_has_no_stats_and_ignores_mode_and_key():
    model = models.plain(lambda params, x: x @ params["w"], {"w": jnp.ones((3, 2))})
    for train in (True, False):
        outputs, stats = model.apply(model.params, model.stats, _inputs(), train=train, key=None)
        assert outputs.shape == (5, 2)
        assert stats == {}


def test_from_nnx_splits_into_plain_dicts_with_integer_keys():
    model = models.from_nnx(Tagger())
    assert set(leaves_by_path(model.params)) == {
        *("layers/0/kernel", "layers/0/bias", "layers/1/kernel", "layers/1/bias"),
        *("norm/scale", "norm/bias"),
    }
    assert set(leaves_by_path(model.stats)) == {"norm/mean", "norm/var", "calls"}
    assert type(model.params) is dict
    assert list(model.params["layers"]) == [0, 1]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))


def test_from_nnx_without_stats_gives_empty_dict():
    model = models.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    assert model.stats == {}
    outputs, stats = model.apply(model.params, {}, _inputs(), train=True, key=None)
    np.testing.assert_array_equal(outputs, _inputs() @ model.params["kernel"])
    assert stats == {}


def test_from_nnx_train_moves_stats_and_eval_does_not():
    model = models.from_nnx(Tagger())
    call = jax.jit(model.apply, static_argnames="train")
    key = jax.random.key(1)
    _, trained = call(model.params, model.stats, _inputs(), train=True, key=key)
    assert trained["calls"] == 1
    assert np.all(trained["norm"]["mean"] != 0)
    _, evaluated = call(model.params, trained, _inputs(), train=False, key=None)
    np.testing.assert_array_equal(evaluated["norm"]["mean"], trained["norm"]["mean"])
    np.testing.assert_array_equal(evaluated["norm"]["var"], trained["norm"]["var"])
    assert evaluated["calls"] == 2


def test_from_nnx_leaves_the_module_alone():
    module = Tagger()
    before = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
    model = models.from_nnx(module)
    model.apply(model.params, model.stats, _inputs(), train=False, key=None)
    assert module.dropout.deterministic is False
    after = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_from_nnx_key_alone_decides_the_dropout():
    model = models.from_nnx(Tagger())

    def run(key, train=True):
        return np.asarray(
            model.apply(model.params, model.stats, _inputs(), train=train, key=key)[0]
        )

    first = run(jax.random.key(1))
    np.testing.assert_array_equal(first, run(jax.random.key(1)))
    np.testing.assert_array_equal(first, run(jax.random.PRNGKey(1)))
    assert np.any(first != run(jax.random.key(2)))
    np.testing.assert_array_equal(run(jax.random.key(1), train=False), run(None, train=False))


def test_from_nnx_two_dropouts_differ():
    class Twice(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.drops[0](x), self.drops[1](x)

    model = models.from_nnx(Twice())
    (one, two), _ = model.apply({}, {}, jnp.ones((64,)), train=True, key=jax.random.key(0))
    assert np.any(np.asarray(one) != np.asarray(two))


def test_from_nnx_needs_a_key_only_where_it_draws():
    model = models.from_nnx(Tagger())
    with pytest.raises(ValueError, match="key must not be None"):
        model.apply(model.params, model.stats, _inputs(), train=True, key=None)


def test_from_nnx_gradient_reaches_every_parameter():
    model = models.from_nnx(Tagger())

    def loss(params):
        outputs, stats = model.apply(
            params, model.stats, _inputs(), train=True, key=jax.random.key(0)
        )
        return jnp.sum(jnp.sin(outputs)), stats

    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(model.params)
    assert jax.tree.structure(grads) == jax.tree.structure(model.params)
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads["layers"][1]))


def test_from_nnx_of_an_abstract_module_gives_shapes():
    model = models.from_nnx(nnx.eval_shape(Tagger))
    kernel = model.params["layers"][0]["kernel"]
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    assert kernel.shape == (3, 4)
    filled = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model[1:])
    outputs, _ = model.apply(*filled, _inputs(), train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(outputs, np.zeros((5, 2)))


def test_from_nnx_refuses_what_is_no_module():
    with pytest.raises(ValueError, match=r"expected a flax\.nnx\.Module, got dict"):
        models.from_nnx({"kernel": jnp.ones(3)})


def test_from_nnx_refuses_variables_that_appear_in_a_call():
    class Grows(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            self.seen = nnx.Variable(x)
            return x

    model = models.from_nnx(Grows())
    with pytest.raises(ValueError, match="adds or removes variables: seen"):
        model.apply({}, {}, jnp.ones(2), train=True, key=None)


def test_names_are_known_and_importing_models_imports_no_flax():
    assert "resnet50" in models.names()
    assert "resnet56_bottleneck" in models.names()
    code = "import sys, domino_jax.models as m; m.names(); sys.exit('flax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
    )


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from domino_jax.models import plain\n"
        "import jax.numpy as jnp\n"
        "number = 3\n"
        "def mlp(*, example, classes, seed, width=2):\n"
        "    shape = (example.shape[-1], width, classes, seed)\n"
        "    return plain(lambda params, x: x, {'w': jnp.zeros(shape)})\n"
        "def given(*, example, classes, seed, params, stats=()):\n"
        "    return plain(lambda params, x: x, params)._replace(stats=stats)\n"
        "def nothing(*, example, classes, seed):\n"
        "    return [1]\n"
    )
    (tmp_path / "my_broken.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_nets", "my_broken"):
        sys.modules.pop(name, None)


def test_create_calls_a_factory_with_its_options(factories):
    model = models.create("my_nets:mlp", example=EXAMPLE, classes=5, seed=7, width=3)
    assert model.params["w"].shape == (1, 3, 5, 7)


def test_parameters_and_stats_become_arrays(factories):
    kept = jnp.ones(2, jnp.float32)
    params = {"k": 1.0, "w": np.ones((2, 2)), "weak": jnp.asarray(2.0), "kept": kept}
    stats = {"steps": 3, "key": jax.random.key(0)}
    model = models.create(
        "my_nets:given", example=EXAMPLE, classes=5, seed=7, params=params, stats=stats
    )
    leaves = leaves_by_path(model.params) | {"steps": model.stats["steps"]}
    kinds = {path: (str(leaf.dtype), leaf.weak_type) for path, leaf in leaves.items()}
    assert kinds == {
        **dict.fromkeys(("k", "w", "weak", "kept"), ("float32", False)),
        "steps": ("int32", False),
    }
    assert model.params["kept"] is kept
    assert model.stats["key"] is stats["key"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, "unknown model 'resnet51'; nearest: resnet"),
        ("my_nets:mlp", {"depth": 1}, "unexpected keyword argument 'depth'; .*width=2"),
        ("my_nets:nothing", {}, r"expected a domino_jax\.models\.Model of the factory, got list"),
        (
            "my_nets:given",
            {"params": {"layer": {"w": jnp.ones((2, 3), jnp.bfloat16)}}},
            r"parameter 'layer/w' is bfloat16\[2, 3\], in which small decays are lost: make it",
        ),
        (
            "my_nets:given",
            {"params": {"a": [1.0, 2]}},
            r"'my_nets:given': parameter 'a/1' is int32",
        ),
        ("my_nets:given", {"params": {"a": True}}, r"'a' is bool\[\], .*: put it into stats"),
        (
            "my_nets:given",
            {"params": {}, "stats": {"b": "x"}},
            "stats 'b': expected an array .* got 'x'",
        ),
        ("my_nets:number", {}, "unknown factory of my_nets 'number'"),
        ("my_nets:cnn", {}, "unknown factory of my_nets 'cnn'"),
        ("my_broken:net", {}, "cannot import my_broken: .*No module named 'not_there_at_all'"),
        ("no_such_package.nets:net", {}, r"cannot import no_such_package\.nets"),
        (".nets:net", {}, r"expected a known name or 'package\.module:factory', got"),
        ("my_nets:", {}, "a known name or"),
        ("resnet20", {"width": 2}, "unexpected keyword argument 'width'; .*shortcut"),
        ("resnet20", {"dtype": "float17"}, "unknown dtype 'float17'; nearest: bfloat16, float32"),
        ("resnet20", {"shortcut": "none"}, "unknown shortcut 'none'; nearest: "),
        ("resnet20", {"stem": "cifar10"}, "unknown stem 'cifar10'; nearest: cifar"),
        ("resnet20", {"seed": -1}, "seed must be a non-negative integer, got -1"),
        ("resnet20", {"classes": 0}, "classes must be a positive integer, got 0"),
        ("resnet20", {"example": {}}, "takes one array of images .*, got nothing"),
        (
            "resnet20",
            {"example": [EXAMPLE, jax.ShapeDtypeStruct((1, 8), jnp.float32)]},
            r"got \(1, 8, 8, 1\), \(1, 8\)",
        ),
    ],
)
def test_create_refuses(factories, name, options, message):
    arguments = {"example": EXAMPLE, "classes": 3, "seed": 0, **options}
    with pytest.raises(ValueError, match=message) as caught:
        models.create(name, **arguments)
    assert "\n" not in str(caught.value)


def test_sizes_may_be_numpys():
    classes = np.array([0, 4]).max() + 1
    made = models.create("resnet20", example=EXAMPLE, classes=classes, seed=0)
    assert made.params["fc"]["kernel"].shape == (64, 5)


class TwoInputs(nnx.Module):
    """Takes two inputs, and draws from the streams that its call is given."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.second = nnx.Linear(6, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, image, text, *, rngs):
        return self.dropout(self.first(image) + self.second(text), rngs=rngs)


def test_a_module_of_two_inputs_that_wants_rngs():
    net = TwoInputs(nnx.Rngs(0))
    model = models.from_nnx(
        net, lambda net, inputs, rngs: net(inputs["image"], inputs["text"], rngs=rngs)
    )
    inputs = {"image": jnp.ones((2, 4)), "text": jnp.ones((2, 6))}

    def outputs(train, key):
        return model.apply(model.params, model.stats, inputs, train=train, key=key)[0]

    expected = net.first(inputs["image"]) + net.second(inputs["text"])
    np.testing.assert_array_equal(outputs(False, None), expected)
    once, again = (outputs(True, jax.random.key(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(once, outputs(True, jax.random.key(1)))
    assert (np.asarray(once) == 0).any() and (np.asarray(once) != np.asarray(again)).any()
    layers = find_layers(
        lambda params, x: model.apply(params, model.stats, x, train=False, key=None)[0],
        model.params,
        inputs,
        2,
    )
    assert {layer.name: layer.m for layer in layers if layer.groups} == {
        "first/kernel": 2,
        "second/kernel": 2,
    }


def test_an_apply_that_ends_the_program_is_named():
    def apply(params, stats, inputs):
        sys.exit(0)

    with pytest.raises(InputError, match=r"^model 'mine:net': apply failed on .*SystemExit: 0"):
        models._explained("mine:net", apply)({}, {}, jnp.ones((1, 2)))

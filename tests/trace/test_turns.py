"""Layers that change in turn: each sees what a pass over the changed network would show it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from domino_jax.core.canonical import one_slice, with_slice
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import leaves_by_path, replace_leaves
from domino_jax.trace import turns
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.taps import layer_tap
from domino_jax.trace.turns import change_in_turn

pytestmark = pytest.mark.usefixtures("users_promotion")
RNG = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def block(x, w):
    q, k, o, scale = w
    x = scale * x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True))
    return x + jax.nn.silu((x @ q) * (x @ k)) @ o, (x * 2.0, scale.sum())


def stacked(p, x, **options):
    x, (seen, total) = lax.scan(block, x, (p["q"], p["k"], p["o"], p["scale"]), **options)
    return (x @ p["head"] + seen.mean(0)[..., :3] + total.sum()).sum()


STACK = {name: floats(3, 4, 4) for name in "qko"} | {"scale": floats(3, 4), "head": floats(4, 3)}


def nested(p, x):
    def outer(x, w):
        x = lax.scan(lambda x, v: (jnp.tanh(x @ v), None), x, w[0])[0]
        return x @ w[1], None

    return lax.scan(outer, x, (p["in"], p["out"]))[0].sum()


def shared(p, x):
    """One weight in two products, one in a loop, one that a branch may take, one cut in two."""
    x = jnp.tanh(x @ p["a"]) @ p["twice"]
    x = lax.scan(lambda x, _: (jnp.tanh(x @ p["loop"]), None), x @ p["twice"], length=2)[0]
    x = lax.cond((x * x).sum() > 0, lambda x: x @ p["branch"], lambda x: x * 2.0, x)
    x = jnp.tanh(x[..., :2] @ p["cut"][:2]) + x[..., 2:] @ p["cut"][2:]
    return (x @ p["b"]).sum()


def shared_in_passes(p, x):
    """A weight that every pass of a loop over a stack meets: its turn needs all of them."""

    def block(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ p["each"]), None

    return lax.scan(block, x, p["stack"])[0].sum()


def forms(p, x):
    """A convolution in groups, heads of an einsum, a transposed and a cast weight, a remat."""
    numbers = ("NWC", "WIO", "NWC")
    x = lax.conv_general_dilated(
        x, p["c"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    x = jnp.einsum("btc,chd->bthd", x, p["heads"]).reshape(x.shape)
    x = jax.checkpoint(lambda w, x: jnp.tanh(x @ w.T))(p["turned"], x)
    x = x @ jnp.flip(p["flipped"], 0)
    return (x.astype(jnp.bfloat16) @ p["cast"].astype(jnp.bfloat16)).astype(jnp.float32).sum()


def experts(p, x):
    """Experts that are all computed: their inputs are the same, their results are added up."""
    hidden = jnp.tanh(jnp.einsum("bd,edf->bef", x, p["into"]))
    return jnp.einsum("bef,efo->bo", hidden, p["out"]).sum()


ABOUT = {"a": floats(4, 4), "b": floats(4, 2)} | {
    name: floats(4, 4) for name in ("twice", "loop", "branch", "cut")
}
FORMS = {"c": floats(3, 2, 4), "heads": floats(4, 2, 2), "turned": floats(4, 4)}
FORMS |= {"cast": floats(4, 4), "flipped": floats(4, 4)}
NETWORKS = {
    "scan over stacks": (stacked, STACK, (3, 2, 4)),
    "scan in reverse": (lambda p, x: stacked(p, x, reverse=True), STACK, (3, 2, 4)),
    "nested scans": (nested, {"in": floats(2, 3, 4, 4), "out": floats(2, 4, 4)}, (3, 4)),
    "several products": (shared, ABOUT, (3, 4)),
    "in each pass": (shared_in_passes, {"stack": floats(3, 4, 4), "each": floats(4, 4)}, (3, 4)),
    "forms": (forms, FORMS, (2, 5, 4)),
    "experts": (experts, {"into": floats(3, 4, 5), "out": floats(3, 5, 2)}, (3, 4)),
}
ONE_BY_ONE = {"twice", "loop", "branch", "cut", "each"}  # not seen as a whole when their turn comes


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_sees_the_changed_layers_before_it(name):
    apply, params, shape = NETWORKS[name]
    batches = [floats(*shape) for _ in range(2)]
    layers = [layer for layer in find_kernels(apply, params, batches[0]) if layer.roles]
    tap = layer_tap(apply, params, batches, layers)
    now, order = dict(leaves_by_path(params)), []

    def turn(w, layer, own):
        np.testing.assert_array_equal(w, now[layer.path])
        wanted = tap(replace_leaves(params, now), layer)
        assert own.products.shape == wanted.products.shape
        close = {"rtol": 2e-2 if layer.path == "cast" else 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(own.products, wanted.products, **close)
        made = 0.5 * one_slice(w, layer.index or 0, layer.roles)
        now[layer.path] = with_slice(w, made, layer.index or 0, layer.roles)
        order.append(layer.name)
        return made

    made = change_in_turn(apply, params, batches, layers, turn)
    assert len(order) == len(layers)
    if "reverse" not in name:
        assert order == [layer.name for layer in layers]
    for path, leaf in leaves_by_path(made).items():
        np.testing.assert_array_equal(leaf, now[path])
        halved = path in {layer.path for layer in layers}
        np.testing.assert_allclose(leaf, (0.5 if halved else 1.0) * params[path])


def test_a_pass_of_its_own_only_where_one_run_is_not_enough(monkeypatch):
    tapped = []

    def counted(*given, gradients):
        tap = layer_tap(*given, gradients=gradients)
        return lambda params, layer: tapped.append(layer.path) or tap(params, layer)

    monkeypatch.setattr(turns, "layer_tap", counted)
    for apply, params, shape in NETWORKS.values():
        x = floats(*shape)
        layers = [layer for layer in find_kernels(apply, params, x) if layer.roles]
        change_in_turn(
            apply,
            params,
            [x],
            layers,
            lambda w, layer, _: one_slice(w, layer.index or 0, layer.roles),
        )
    assert set(tapped) == ONE_BY_ONE
    assert len(tapped) == len(ONE_BY_ONE)


def test_what_no_layer_waits_for_is_not_run():
    def fails(x):
        raise AssertionError

    def apply(p, x):
        y = x @ p["w"]
        jax.debug.callback(fails, y)
        return y.sum()

    params, x = {"w": floats(4, 4)}, floats(2, 4)
    layers = find_kernels(apply, params, x)
    made = change_in_turn(apply, params, [x], layers, lambda w, layer, own: 2 * w)
    np.testing.assert_array_equal(made["w"], 2 * params["w"])


def test_no_batches_are_refused():
    layers = find_kernels(lambda p, x: x @ p["w"], {"w": floats(4, 4)}, floats(1, 4))
    with pytest.raises(InputError, match="expected at least one batch"):
        change_in_turn(lambda p, x: (x @ p["w"]).sum(), {"w": floats(4, 4)}, [], layers, None)


def test_a_layer_of_no_product_has_no_turn():
    layer = LayerSpec("a", (8, 4), None, 0, None, "not used", 1)
    with pytest.raises(InputError, match="a: expected a layer of a product, got one without"):
        turns._roles(layer)

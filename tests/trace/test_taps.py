"""Statistics of products from the trace, against hooks written by hand into the same networks."""

import dataclasses

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from jax import lax
from tapped import (
    RNG,
    B,
    by_hooks,
    flat,
    floats,
    mean_square,
    require_like,
    require_same_one_by_one,
    tapped,
    unhooked,
)

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError
from domino_jax.trace import adding
from domino_jax.trace.adding import tapper
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.taps import tap
from domino_jax.trace.turns import change_in_turn

pytestmark = pytest.mark.usefixtures("users_promotion")
P = {"a": floats(4, 4), "b": floats(4, 6), "stack": floats(3, 4, 4)}
X = floats(B, 5, 4)


def test_a_weight_tied_to_its_lookup_and_shared_by_two_products():
    tokens = jnp.asarray(RNG.integers(0, 7, (B, 5)))
    params = {"table": floats(7, 4), "a": P["a"]}

    def network(hook, p, t):
        x = p["table"][t]
        x = jnp.tanh(hook(x, x @ p["a"]))
        x = jnp.tanh(hook(x, x @ p["a"]))
        return hook(x, x @ p["table"].T)

    once, twice, head = by_hooks(network, params, tokens)
    taps = tapped(lambda p, t: network(lambda x, y: y, p, t), params, tokens)
    require_like(taps.statistics["a"], once, twice)
    require_like(taps.statistics["table"], head)


def stacked_network(hook, p, x):
    for w in p["stack"]:
        x = jnp.tanh(hook(x, x @ w))
    return hook(x, x @ p["b"])


def through_scan(p, x):
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])
    return x @ p["b"]


def through_reversed_scan(p, x):
    def body(x, w):
        return jnp.tanh(x @ w), x.sum()

    x, _ = lax.scan(body, x, p["stack"][::-1], reverse=True)
    return x @ p["b"]


def through_remat_in_scan(p, x):
    body = jax.checkpoint(lambda x, w: (jax.jit(lambda x: jnp.tanh(x @ w))(x), None))
    return lax.scan(body, x, p["stack"], unroll=2)[0] @ p["b"]


def through_numbered_passes(p, x):
    return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["stack"][i]), x) @ p["b"]


def through_slices(p, x):
    for i in range(3):
        x = jnp.tanh(x @ p["stack"][i])
    return x @ p["b"]


def through_scan_of_a_part(p, x):
    x = jnp.tanh(x @ p["stack"][0])
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"][1:])
    return x @ p["b"]


def through_scans_in_a_scan(p, x):
    """A stack of 3 by one pass of an outer scan; b is used in a pass of another scan."""

    def outer(x, stack):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)

    x, _ = lax.scan(outer, x, p["stack"].reshape(1, 3, 4, 4))
    return lax.scan(lambda _, x: (0, x @ p["b"]), 0, x[None])[1][0]


def through_custom_rules(p, x):
    @jax.custom_vjp
    def product(x, w):
        return jnp.tanh(x @ w)

    product.defvjp(
        lambda x, w: (product(x, w), (x, w)), lambda saved, g: jax.vjp(lambda *a: a, *saved)[0]
    )

    @jax.custom_jvp
    def tanh(x):
        return jnp.tanh(x)

    tanh.defjvp(lambda primals, tangents: (tanh(*primals), 7 * tangents[0]))
    for w in p["stack"]:
        x = product(x, w)
    return x @ p["b"]


STACKS = (
    through_scan,
    through_reversed_scan,
    through_remat_in_scan,
    through_numbered_passes,
    through_slices,
    through_scan_of_a_part,
    through_scans_in_a_scan,
    through_custom_rules,
)


@pytest.mark.parametrize("apply", STACKS)
def test_each_slice_of_a_stack_has_its_own(apply):
    *slices, head = by_hooks(stacked_network, P, X)
    taps = tapped(apply, P, X)
    for number, pair in enumerate(slices):
        require_like(taps.statistics[f"stack#{number}"], pair)
    require_like(taps.statistics["b"], head)
    assert taps.untapped == {}
    if apply in (through_numbered_passes, through_scan_of_a_part):
        require_same_one_by_one(apply, P, X, taps)


def test_a_branch_that_is_not_taken_sees_nothing():
    def network(hook, p, x):
        return hook(jnp.tanh(x), jnp.tanh(x) @ p["b"])

    def apply(p, x):
        taken = lax.cond(x.sum() < 1e9, lambda x, w: jnp.tanh(x), lambda x, w: x @ w, x, p["a"])
        return lax.cond(x.sum() < 1e9, lambda x, w: x @ w, lambda x, w: 2 * x @ w, taken, p["b"])

    taps = tapped(apply, P, X)
    require_like(taps.statistics["b"], *by_hooks(network, P, X))
    assert taps.untapped == {"a": "no example's loss depends on it"}


def test_heads_of_attention_by_einsum():
    params = {"q": floats(4, 2, 3), "kv": floats(2, 4, 2, 3), "o": floats(2, 3, 4)}

    def network(hook, p, x):
        q = hook(x, jnp.einsum("bti,ihd->bthd", x, p["q"]))
        if hook is unhooked:
            k, v = jnp.einsum("bti,sihd->sbthd", x, p["kv"])
        else:
            k, v = (hook(x, jnp.einsum("bti,ihd->bthd", x, w)) for w in p["kv"])
        scores = jax.nn.softmax(jnp.einsum("bthd,bshd->bths", q, k))
        mixed = jnp.einsum("bths,bshd->bthd", scores, v)
        return hook(mixed, jnp.einsum("bthd,hdo->bto", mixed, p["o"]))

    q, k, v, o = by_hooks(network, params, X)
    taps = tapped(lambda p, x: network(unhooked, p, x), params, X)
    require_like(taps.statistics["q"], (X, flat(q[1])))
    require_like(taps.statistics["kv"], (X, jnp.concatenate([flat(k[1]), flat(v[1])], -1)))
    require_like(taps.statistics["o"], (flat(o[0]), o[1]))


def test_joined_weights_and_parts_of_one():
    """Queries and keys in one product; a weight cut along its inputs, with a tanh between."""
    params = {"q": floats(4, 4), "k": floats(4, 2), "w": floats(6, 3)}

    def network(hook, p, x):
        if hook is unhooked:
            x = x @ jnp.concatenate([p["q"], p["k"]], axis=1)
        else:
            x = jnp.concatenate([hook(x, x @ p["q"]), hook(x, x @ p["k"])], axis=-1)
        left, right = x[..., :2], x[..., 2:]
        first = jnp.tanh(hook(left, left @ p["w"][:2]))
        return first + hook(right, right @ p["w"][2:])

    q, k, left, right = by_hooks(network, params, X)
    taps = tapped(lambda p, x: network(unhooked, p, x), params, X)
    require_like(taps.statistics["q"], q)
    require_like(taps.statistics["k"], k)
    own = taps.statistics["w"]
    x = [np.asarray(pair[0]).reshape(-1, pair[0].shape[-1]) for pair in (left, right)]
    np.testing.assert_allclose(own.products[0, :2, :2], x[0].T @ x[0] / 15, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own.products[0, 2:, 2:], x[1].T @ x[1] / 15, rtol=1e-5, atol=1e-6)
    assert not own.products[0, :2, 2:].any()
    assert (own.rows == 5).all()


CONVOLUTIONS = {
    "strided": ((3, 3, 4, 6), {"window_strides": (2, 1), "padding": "SAME"}),
    "dilated": (
        (2, 3, 4, 2),
        {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (1, 2)},
    ),
    "transposed": (
        (3, 3, 4, 2),
        {"window_strides": (1, 1), "padding": ((2, 1), (1, 1)), "lhs_dilation": (2, 2)},
    ),
    "large": ((17, 2, 4, 2), {"window_strides": (1, 2), "padding": ((9, 8), (0, 1))}),
    "large and dilated": (
        (19, 1, 4, 2),
        {"window_strides": (3, 1), "padding": ((20, 19), (0, 0)), "rhs_dilation": (2, 1)},
    ),
    "cropped": ((1, 1, 4, 2), {"window_strides": (2, 2), "padding": ((-1, 0), (0, -1))}),
    "grouped": (
        (3, 3, 2, 6),
        {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 2},
    ),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_patches_of_convolutions(kind):
    """Against the products themselves: H and g give back the outputs and the weights' gradient."""
    shape, options = CONVOLUTIONS[kind]
    params, x = {"w": floats(*shape)}, floats(B, 5, 6, 4)
    numbers = ("NHWC", "HWIO", "NHWC")

    def apply(p, x):
        return lax.conv_general_dilated(x, p["w"], dimension_numbers=numbers, **options)

    own = tapped(apply, params, x).statistics["w"]
    groups, columns = options.get("feature_group_count", 1), shape[-1]
    y = apply(params, x)
    w = np.asarray(params["w"]).reshape(-1, groups, columns // groups).transpose(1, 0, 2)
    rows = y[..., 0].size
    energy = np.einsum("gko,gkl,glo->go", w, own.products, w).reshape(-1) * rows
    np.testing.assert_allclose(energy, np.square(y).sum((0, 1, 2)), rtol=1e-4)
    g = jax.grad(lambda y: mean_square(y) * B)(y)
    np.testing.assert_allclose(own.gradients, np.square(g).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(own.squares, np.einsum("gkk->gk", own.products), rtol=1e-5)
    assert (own.rows == rows / B).all()


def test_a_vmapped_stack_of_products_and_of_convolutions():
    params = {"w": floats(2, 3, 3), "c": floats(2, 3, 3, 4)}
    stack = floats(B, 2, 5, 4)

    def apply(p, x):
        def one(w, c, x):
            y = lax.conv_general_dilated(
                x, c, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )
            return jnp.tanh(y) @ w

        return jax.vmap(one, (0, 0, 1), 1)(p["w"], p["c"].transpose(0, 1, 3, 2), x)

    def network(hook, p, x):
        outputs = []
        for i in range(2):
            kernel = p["c"][i].transpose(0, 2, 1)
            y = lax.conv_general_dilated(
                x[:, i], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )
            y = jnp.tanh(hook(x[:, i], y))
            outputs.append(hook(y, y @ p["w"][i]))
        return jnp.stack(outputs, 1)

    pairs = by_hooks(network, params, stack)
    taps = tapped(apply, params, stack)
    for i in range(2):
        (x, g), product = pairs[2 * i], pairs[2 * i + 1]
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        cut = jnp.concatenate([padded[:, j : j + 5] for j in range(3)], -1)
        require_like(taps.statistics[f"c#{i}"], (cut, g))
        require_like(taps.statistics[f"w#{i}"], product)
    require_same_one_by_one(apply, params, stack, taps)


def test_in_bfloat16_the_sums_are_in_float32():
    def apply(p, x):
        return (x.astype(jnp.bfloat16) @ p["b"].astype(jnp.bfloat16)).astype(jnp.float32)

    own = tapped(apply, P, X).statistics["b"]
    rounded = np.asarray(X.astype(jnp.bfloat16), np.float32).reshape(-1, 4)
    np.testing.assert_allclose(own.products[0], rounded.T @ rounded / 15, rtol=1e-6)


def sum_over_a_gather(p, x):
    picks = jnp.argmax(x[..., :3], axis=-1)
    return jnp.einsum("bti,btio->bto", x, p["stack"][picks])


def in_a_while_loop(p, x):
    return lax.while_loop(lambda x: x.sum() > 1e9, lambda x: x @ p["a"], x)


def along_two_axes(p, x):
    return x @ p["a"] @ p["a"].T


def repeated_inputs(p, x):
    return jnp.concatenate([x, x], -1) @ jnp.tile(p["a"], (2, 1))


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (sum_over_a_gather, "which part of it meets the inputs is known only at run time"),
        (in_a_while_loop, "in a while loop"),
        (along_two_axes, "used along different input axes"),
        (repeated_inputs, "repeated along its inputs"),
    ],
)
def test_what_cannot_be_tapped_says_why_and_the_rest_is_tapped(apply, reason):
    def behind(p, x):
        return lax.stop_gradient(apply(p, x)).sum() + x @ p["b"]

    taps = tapped(behind, P, X)
    assert list(taps.statistics) == ["b"]
    assert set(taps.untapped.values()) == {reason}
    if apply is in_a_while_loop:
        require_same_one_by_one(behind, P, X, taps)


def test_several_batches_are_one_and_only_what_is_asked_for_is_tapped():
    layers = find_kernels(through_scan, P, X)

    def loss(params, x):
        return mean_square(through_scan(params, x))

    both = tap(loss, P, [X, X + 1], layers, products=False, only=["stack#1", "b"])
    inputs = tap(loss, P, [X, X + 1], layers, gradients=False)
    one = tap(loss, P, [jnp.concatenate([X, X + 1])], layers)
    assert list(both.statistics) == ["stack#1", "b"]
    for name, own in both.statistics.items():
        assert own.products is None
        np.testing.assert_allclose(own.squares, one.statistics[name].squares, rtol=1e-5)
        np.testing.assert_allclose(own.gradients, one.statistics[name].gradients, rtol=1e-5)
    for name, own in inputs.statistics.items():
        assert not np.any(own.gradients)
        assert np.any(one.statistics[name].gradients)
        np.testing.assert_allclose(own.products, one.statistics[name].products, rtol=1e-5)


def test_wrong_input_says_what_to_do():
    layers = find_kernels(through_scan, P, X)
    with pytest.raises(InputError, match="expected at least one batch"):
        tap(lambda p, x: mean_square(through_scan(p, x)), P, [], layers)
    with pytest.raises(InputError, match="a loss that is one number"):
        tap(through_scan, P, [X], layers)
    with pytest.raises(InputError, match="unknown layer to tap 'stack'"):
        tap(through_scan, P, [X], layers, only=["stack"])


def test_a_layer_of_no_product_has_no_axes_to_add_along():
    layer = made.layer("w", (8, 2), Axes((), (), (0,), (1,)), 16, reason="looked up")
    bare = dataclasses.replace(layer, roles=None)
    traced = adding._Traced(None, (), 0, None, {"w": bare}, {})
    with pytest.raises(InputError, match="w: expected a layer of a product, got one without"):
        adding._roles(traced, "w")


def test_without_gradients_there_is_no_pass_back():
    def flops(gradients):
        layers = find_kernels(through_scan, P, X)
        ready = tapper(
            lambda p, x: mean_square(through_scan(p, x)), P, X, layers, gradients=gradients
        )
        zeros = {path: ready.zeros(path, False, False) for path in ready.paths}
        compiled = jax.jit(ready.add).lower(zeros, P, X, None).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(False) < 0.7 * flops(True)


def test_batches_that_are_not_alike():
    params = {"w": floats(4, 2)}
    layers = find_kernels(lambda p, x: x @ p["w"], params, floats(1, 4))

    def loss(params, batch):
        return mean_square(batch["x"] @ params["w"])

    for batches in ([6, 4], [4, 6]):
        some = [{"x": floats(size, 4)} for size in batches]
        with pytest.raises(InputError, match=r"the shapes of the first, \(\d, 4\), got \(\d, 4\)"):
            tap(loss, params, some, layers)
        with pytest.raises(InputError, match="the shapes of the first"):
            change_in_turn(loss, params, some, layers, lambda w, layer, own: None)
    for other in (jnp.float32(1), 1.0, floats(3)):
        with pytest.raises(InputError, match="with the examples along the first axis"):
            tap(loss, params, [{"a": other, "x": floats(4, 4)}], layers)

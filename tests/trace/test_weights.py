"""What becomes of one weight: roles, MACs, reasons and notes."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from domino_jax.trace import example, weights

S = jax.ShapeDtypeStruct
F = jnp.float32
X = S((5, 8), F)
W = S((8, 6), F)
SQUARE = S((8, 8), F)
STACK = S((3, 8, 8), F)
DENSE = ("inputs", "outputs")
ROWS = ("stack", "inputs", "outputs")


def uses(apply, w=W, x=X):
    return weights.find_uses(lambda p, x: apply(x, p), w, x)


def only(apply, w=W, x=X):
    """The roles and MACs of the only use, which is a product without trouble."""
    (use,) = uses(apply, w, x)
    assert (use.reason, use.note, use.weak) == ("", "", False)
    return use.roles, use.macs


def same(w):
    return w


@jax.custom_vjp
def rounded(w):
    return jnp.round(w)


rounded.defvjp(lambda w: (rounded(w), None), lambda _, g: (g,))


@jax.custom_jvp
def ternary(w):
    return jnp.sign(w)


ternary.defjvp(lambda w, t: (ternary(*w), t[0]))

KEPT = {
    "nothing": same,
    "cast": lambda w: w.astype(jnp.bfloat16).astype(F),
    "copy": jnp.copy,
    "stop_gradient": lax.stop_gradient,
    "barrier": lambda w: lax.optimization_barrier((w, jnp.ones(())))[0],
    "scaled": lambda w: 2 * w / jnp.sqrt(jnp.float32(3)),
    "scaled by column": lambda w: w * jnp.arange(6.0)[None, :],
    "negative": lambda w: -w,
    "clipped": lambda w: jnp.clip(w, -1, 1),
    "quantized": lambda w: jnp.round(w / jnp.abs(w).max() * 127) / 127,
    "straight through": lambda w: w + lax.stop_gradient(jnp.sign(w) - w),
    "masked": lambda w: jnp.where(jnp.arange(6)[None] > 2, w, jnp.zeros_like(w)),
    "pruned by magnitude": lambda w: w * (jnp.abs(w) > 0.1).astype(F),
    "normalized": lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True),
    "standardized by scale": lambda w: w / jnp.std(w, axis=0, keepdims=True),
    "there and back": lambda w: w.T.reshape(2, 3, 8).reshape(6, 8).T[None][0],
    "jit": jax.jit(lambda w: w.astype(jnp.bfloat16).astype(F)),
    "jit in jit": jax.jit(lambda w: jax.jit(same)(w) * 2),
    "remat": jax.checkpoint(lambda w: w * 2),
    "custom_vjp": rounded,
    "custom_jvp": ternary,
    "cond": lambda w: lax.cond(jnp.ones(()) > 0, lambda v: v, lambda v: v * 1, w),
    "halves joined": lambda w: jnp.concatenate([w[:, :3], w[:, 3:]], axis=1),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_weight_is_followed_through(name):
    found = [use for use in uses(lambda x, w: x @ KEPT[name](w)) if not use.note]
    assert {(use.roles, use.reason) for use in found} == {(DENSE, "")}
    assert sum(use.macs for use in found) == 8 * 6


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("add", lambda w: w + 1),
        ("sub", lambda w: w - w.mean(axis=0, keepdims=True)),
        ("exp", jnp.exp),
        ("max", lambda w: jnp.clip(w, 0.5, 1)),
        ("div", lambda w: 1 / w),
        ("select_n", lambda w: jnp.where(jnp.arange(6)[None] > 2, w, jnp.ones_like(w))),
        ("sort", jnp.sort),
        ("cumsum", lambda w: jnp.cumsum(w, axis=0)),
    ],
)
def test_zeros_that_move_are_trouble_but_the_product_is_found(name, change):
    found = [use for use in uses(lambda x, w: x @ change(w)) if use.roles]
    assert [(use.roles, use.macs, use.reason) for use in found] == [
        (DENSE, 48, f"goes into {name}")
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pad", lambda x, w: x @ jnp.pad(w, ((0, 0), (1, 1)))),
        ("mul", lambda x, w: w * jnp.broadcast_to(x.T, (8, 6))),
        ("add", lambda x, w: x.T + w),
        ("concatenate", lambda x, w: jnp.concatenate([x.T, w], axis=1)),
        ("reshape", lambda x, w: x @ w.T.reshape(8, 6)),
    ],
)
def test_where_a_weight_is_lost_the_primitive_is_named(name, change):
    (use,) = uses(change)
    assert (use.roles, use.reason) == ((), f"goes into {name}")


def test_statistics_are_noted():
    (use,) = uses(lambda x, w: x.sum() * w.max())
    assert (use.roles, use.reason, use.note) == ((), "", "in reduce_max")


def test_a_returned_weight_is_noted():
    (use,) = uses(lambda x, w: (x, w.T))
    assert use.note == "returned"


def test_small_leaves_and_integers_are_not_followed():
    params = {"b": S((6,), F), "i": S((8, 6), jnp.int32), "x": None}
    assert weights.find_uses(lambda p, x: x @ p["i"].astype(F) + p["b"][None], params, X) == []


def test_two_leaves_of_one_path_are_refused():
    with pytest.raises(ValueError, match="two parameters have the path 'a/b'"):
        example.arrays_by_path({"a/b": np.ones(2), "a": {"b": np.ones(2)}})


def test_leaves_that_are_no_arrays_are_passed_on():
    params = {"f": jnp.tanh, "w": np.ones((8, 6), np.float32), "name": "dense"}
    (use,) = weights.find_uses(
        lambda p, x: p["f"](x["a"] @ p["w"]), params, {"a": X, "train": True}
    )
    assert use.view.path == "w"


def test_keys_and_scalars_are_passed_on():
    params = {"key": jax.random.key(0), "w": W}
    inputs = {"x": X, "scale": S((), F)}

    def apply(p, x):
        noise = jax.random.normal(p["key"], (1, 6))
        return x["x"] @ p["w"] * x["scale"] + noise

    (use,) = weights.find_uses(apply, params, inputs)
    assert (use.roles, use.macs) == (DENSE, 48)


def test_nothing_is_allocated_and_the_batch_counts_as_one():
    huge = S((1 << 20, 1 << 20), F)
    assert only(lambda x, w: x @ w, huge, S((1000, 1 << 20), F)) == (DENSE, 1 << 40)


def test_dot_products():
    assert only(lambda x, w: x @ w) == (DENSE, 48)
    assert only(lambda x, w: x @ w.T, S((6, 8), F)) == (DENSE[::-1], 48)
    assert only(lambda x, w: w @ x[0], S((6, 8), F)) == (DENSE[::-1], 48)
    long = S((5, 7, 8), F)
    assert only(lambda x, w: x @ w, W, long) == (DENSE, 7 * 48)
    heads = S((8, 2, 3), F)
    assert only(lambda x, w: jnp.einsum("btd,dhk->bthk", x, w), heads, long) == (
        ("inputs", "outputs", "outputs"),
        7 * 48,
    )
    values = S((5, 7, 2, 3), F)
    assert only(lambda x, w: jnp.einsum("bthk,hkd->btd", x, w), S((2, 3, 8), F), values) == (
        ("inputs", "inputs", "outputs"),
        7 * 48,
    )
    assert only(lambda x, w: jnp.einsum("bthk,hkl->bthl", x, w), S((2, 3, 4), F), values) == (
        ROWS,
        7 * 24,
    )
    assert only(lambda x, w: jnp.einsum("btd,td->bd", x, w), S((7, 8), F), long) == (DENSE, 56)


def test_a_fused_kernel_is_used_in_parts():
    def qkv(x, w):
        return [x @ part for part in jnp.split(w, 3, axis=1)]

    assert [(u.roles, u.macs) for u in uses(qkv, S((8, 12), F))] == [(DENSE, 32)] * 3

    def indexed(x, w):
        w = w.reshape(8, 3, 2, 2)
        return [jnp.einsum("bd,dhk->bhk", x, w[:, i]) for i in range(3)]

    assert [(u.roles, u.macs) for u in uses(indexed, S((8, 12), F))] == [(DENSE, 32)] * 3


def test_joined_weights_share_the_product():
    params = {"q": S((8, 6), F), "v": S((8, 2), F)}
    found = weights.find_uses(
        lambda p, x: x @ jnp.concatenate([p["q"], p["v"]], axis=1).astype(F), params, X
    )
    assert [(u.view.path, u.roles, u.macs) for u in found] == [
        ("q", DENSE, 48),
        ("v", DENSE, 16),
    ]


def test_layers_stacked_for_a_scan():
    def apply(params, x):
        stacked = jnp.stack([w.T for w in params])
        return lax.scan(lambda h, w: (h @ w.T, None), x, stacked)[0]

    found = weights.find_uses(apply, [SQUARE] * 3, X)
    assert [(u.view.path, u.roles, u.macs) for u in found] == [
        (str(i), DENSE, 64) for i in range(3)
    ]


def test_loops():
    assert only(lambda x, w: lax.scan(lambda h, v: (h @ v, None), x, w)[0], STACK) == (ROWS, 192)
    assert only(lambda x, w: lax.fori_loop(0, 3, lambda i, h: h @ w, x), SQUARE) == (DENSE, 192)
    assert only(lambda x, w: lax.fori_loop(0, 3, lambda i, h: h @ w[i], x), STACK) == (ROWS, 192)
    carried = functools.partial(lax.fori_loop, 0, 3, lambda i, c: (c[0], c[1] @ c[0]))
    assert only(lambda x, w: carried((w, x))[1], SQUARE) == (DENSE, 192)
    nested = S((2, 3, 8, 8), F)

    def outer(x, w):
        return lax.scan(lambda h, v: lax.scan(lambda g, u: (g @ u, None), h, v), x, w)[0]

    assert only(outer, nested) == (("stack", "stack", "inputs", "outputs"), 6 * 64)


def test_a_changed_carry_is_lost():
    def decayed(x, w):
        return lax.fori_loop(0, 3, lambda i, c: (c[0] * 0.5, c[1] @ c[0]), (w, x))[1]

    def turned(x, w):
        return lax.fori_loop(0, 3, lambda i, c: (c[0].T, c[1] @ c[0]), (w, x))[1]

    assert only(decayed, SQUARE) == (DENSE, 192)  # its zeros stay where they are
    (use, *_) = uses(turned, SQUARE)
    assert (use.roles, use.reason) == ((), "goes out of scan")


def test_a_while_loop_runs_an_unknown_number_of_times():
    (use,) = uses(lambda x, w: lax.while_loop(lambda h: h.sum() < 9, lambda h: h @ w, x), SQUARE)
    assert (use.roles, use.macs, use.reason) == (DENSE, 64, "in a while loop")


def test_statistics_in_a_while_loop_are_noted():
    (use,) = uses(lambda x, w: lax.while_loop(lambda h: h.sum() < w.max(), lambda h: h + 1, x))
    assert (use.note, use.reason) == ("in reduce_max", "")


def test_of_branches_the_dearest_counts():
    def branches(x, w):
        return lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x @ w @ w, x)

    assert sum(use.macs for use in uses(branches, SQUARE)) == 128
    assert len(uses(branches, SQUARE)) == 3

    def experts(x, w):
        return lax.switch(0, [lambda x, i=i: x @ w[i] for i in range(3)], x)

    assert [use.macs for use in uses(experts, STACK)] == [Fraction(64, 3)] * 3


def test_one_of_two_weights_is_lost():
    params = {"a": SQUARE, "b": SQUARE}

    def apply(p, x):
        return x @ lax.cond(x.sum() > 0, lambda a, b: a, lambda a, b: b, p["a"], p["b"])

    found = [(use.view.path, use.roles, use.reason) for use in weights.find_uses(apply, params, X)]
    assert sorted(found) == [("a", (), "goes out of cond"), ("b", (), "goes out of cond")]


def test_lookups():
    tokens = S((5, 7), jnp.int32)
    table = S((100, 8), F)
    for lookup in (lambda x, w: w[x], lambda x, w: jnp.take(w, x, axis=0), lambda x, w: w[x[0, 0]]):
        (use,) = uses(lookup, table, tokens)
        assert (use.roles, use.reason, use.note) == ((), "", "looked up")


def test_several_rows_of_a_stack_are_a_lookup():
    (use,) = uses(lambda x, w: w[x], STACK, S((5, 2), jnp.int32))
    assert (use.roles, use.note) == ((), "looked up")


def test_a_row_without_its_dim():
    (use,) = uses(lambda x, w: x @ w[1:2].reshape(8, 8), STACK)
    assert (use.roles, use.view.offset) == (ROWS, (1, 0, 0))


def test_an_index_is_known_or_not():
    (use,) = uses(lambda x, w: x @ w[2], STACK)
    assert (use.roles, use.view.offset) == (ROWS, (2, 0, 0))
    (use,) = uses(lambda x, w: x @ lax.dynamic_index_in_dim(w, -1, 0, keepdims=False), STACK)
    assert (use.roles, use.view.offset) == (ROWS, (2, 0, 0))
    chosen = {"x": X, "i": S((5,), jnp.int32)}
    (use,) = uses(lambda x, w: x["x"] @ w[x["i"][0]], STACK, chosen)
    assert (use.roles, use.view.offset) == (ROWS, (None, 0, 0))


def test_products_of_parameters():
    params = {"a": SQUARE, "b": SQUARE}
    found = weights.find_uses(lambda p, x: x @ (p["a"] @ p["b"]), params, X)
    assert {use.view.path for use in found} == {"a", "b"}
    assert all(use.reason and not use.roles for use in found)
    found = weights.find_uses(lambda p, x: x @ (p["a"] * p["b"]), params, X)
    assert {(use.view.path, use.roles, use.reason, use.note) for use in found} == {
        ("a", DENSE, "goes into mul with b", ""),
        ("b", (), "", "scales a"),
    }


def test_of_two_parameters_the_whole_one_is_the_weight():
    params = {"w": W, "s": W, "latent": S((5, 8), F)}

    def gated(p, x):
        return x @ (jax.nn.sigmoid(p["s"]) * p["w"])

    def latents(p, x):
        return jnp.exp(p["latent"]) @ p["w"]

    for apply, other, trouble in (
        (gated, "s", "goes into logistic"),
        (latents, "latent", "goes into exp"),
    ):
        found = {use.view.path: use for use in weights.find_uses(apply, params, X)}
        assert (found["w"].roles, found["w"].reason) == (DENSE, "")
        assert (found[other].roles, found[other].reason) == ((), trouble)


def test_a_product_without_inputs_is_weak():
    found = uses(lambda x, w: x @ (w / jnp.linalg.norm(jnp.ones((1, 8)) @ w)))
    assert [(use.roles, use.weak) for use in found] == [(DENSE, True), (DENSE, False)]


def test_experts():
    sizes = jnp.full((3,), 7 // 3, jnp.int32)
    apply = lambda x, w: lax.ragged_dot(x[0], w, sizes)  # noqa: E731
    assert only(apply, S((3, 8, 6), F), S((5, 7, 8), F)) == (ROWS, 7 * 48)


def test_shard_map_over_whole_arrays():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=spec, out_specs=spec)
    assert only(mapped) == (DENSE, 48)


def test_shard_map_over_parts_is_lost():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    mapped = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(spec(), spec(None, "d")), out_specs=spec(None, "d")
    )
    (use,) = uses(mapped)
    assert (use.roles, use.reason) == ((), "goes into shard_map")

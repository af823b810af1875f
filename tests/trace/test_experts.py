"""Experts, however they are written: the same layers and MACs for the same mathematics.

Letters: B examples, T tokens, D features, E experts, F hidden features, O outputs.
E = 3, D = 16, O = 4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from traced import floats

from domino_jax.core.canonical import Axes
from domino_jax.trace.activations import activation_macs
from domino_jax.trace.kernels import find_kernels

F = jnp.float32
STACKED = Axes((0,), (), (1,), (2,))
ONE_LAYER = Axes((), (), (1,), (0, 2))
X = jax.ShapeDtypeStruct((2, 6, 16), F)
IDENTITY = np.eye(3, dtype=np.float32)


pytestmark = pytest.mark.usefixtures("users_promotion")


def counted(kernels):
    return {k.name: k.macs for k in kernels if k.roles is not None}


def router(p, x):
    return (x @ p["r"]).argmax(-1)


def gathered(p, x):
    return jnp.einsum("btd,btdo->bto", x, p["w"][router(p, x)])


def gathered_one_by_one(p, x):
    return jax.vmap(jax.vmap(lambda t: t @ p["w"][router(p, t)]))(x)


def switched(p, x):
    branches = [lambda t, e=e: t @ p["w"][e] for e in range(3)]
    return lax.map(lambda t: lax.switch(router(p, t), branches, t), x[0])


def ragged(p, x):
    picks = router(p, x).reshape(-1)
    order = jnp.argsort(picks)
    return lax.ragged_dot(x.reshape(-1, 16)[order], p["w"], jnp.bincount(picks, length=3))


def one_hot(p, x):
    return jax.nn.one_hot(router(p, x), 3)


def one_hot_sum(p, x):
    return jnp.einsum("btd,btdo->bto", x, jnp.einsum("bte,edo->btdo", one_hot(p, x), p["w"]))


def one_hot_by_comparison(p, x):
    picks = jnp.where(router(p, x)[..., None] == jnp.arange(3), 1.0, 0.0)
    flat = (picks @ p["w"].reshape(3, -1)).reshape(*x.shape[:2], 16, 4)
    return jnp.einsum("btd,btdo->bto", x, flat)


def one_hot_one_by_one(p, x):
    return jax.vmap(jax.vmap(lambda t: t @ jnp.tensordot(one_hot(p, t), p["w"], 1)))(x)


def one_hot_weighed(p, x):
    gates = jax.nn.softmax(x @ p["r"])
    picks = jax.nn.one_hot(gates.argmax(-1), 3)
    w = jnp.tensordot(picks * gates.max(-1, keepdims=True), p["w"], 1)
    return jnp.einsum("btd,btdo->bto", x, w)


def one_hot_of_a_diagonal(p, x):
    w = jnp.tensordot(jnp.eye(3)[router(p, x)], p["w"], 1)
    return jnp.einsum("btd,btdo->bto", x, w)


def one_hot_of_a_closed_over_diagonal(p, x):
    rows = jnp.take(IDENTITY, router(p, x), axis=0)
    return jnp.einsum("btd,btdo->bto", x, jnp.einsum("bte,edo->btdo", rows, p["w"]))


def one_hot_of_a_diagonal_one_by_one(p, x):
    def one(token):
        row = jax.lax.dynamic_index_in_dim(jnp.identity(3), router(p, token), keepdims=False)
        return token @ jnp.tensordot(row, p["w"], 1)

    return jax.vmap(jax.vmap(one))(x)


def one_hot_times_weights(p, x):
    w = (one_hot(p, x)[..., None, None] * p["w"]).sum(2)
    return jnp.einsum("btd,btdo->bto", x, w)


EACH_ITS_OWN = [
    gathered,
    gathered_one_by_one,
    switched,
    ragged,
    one_hot_sum,
    one_hot_by_comparison,
    one_hot_one_by_one,
    one_hot_weighed,
    one_hot_of_a_diagonal,
    one_hot_of_a_closed_over_diagonal,
    one_hot_of_a_diagonal_one_by_one,
    one_hot_times_weights,
]


@pytest.mark.parametrize("apply", EACH_ITS_OWN)
@pytest.mark.parametrize("tokens", [1, 6])
def test_each_token_with_its_own_expert(apply, tokens):
    params, x = {"w": floats(3, 16, 4), "r": floats(16, 3)}, floats(2, tokens, 16)
    kernels = find_kernels(apply, params, x)
    total = tokens * 64
    shares = [total // 3 + (i < total % 3) for i in range(3)]
    assert counted(kernels) == {"r": tokens * 48} | {f"w#{i}": shares[i] for i in range(3)}
    assert {k.roles for k in kernels if k.path == "w"} == {STACKED}
    assert activation_macs(apply, params, x) == 0


def scanned(p, x):
    def body(total, row):
        return total + jnp.where((router(p, x) == row[1])[..., None], x @ row[0], 0), None

    return lax.scan(body, x[..., :4] * 0, (p["w"], jnp.arange(3)))[0]


def written_out(p, x):
    picks = router(p, x)[..., None]
    return sum(jnp.where(picks == e, x @ p["w"][e], 0) for e in range(3))


def dispatched(p, x):
    one_hot = jax.nn.one_hot(router(p, x), 3)
    return jnp.einsum("ebtd,edo->ebto", jnp.einsum("bte,btd->ebtd", one_hot, x), p["w"])


def switched_under_vmap(p, x):
    branches = [lambda t, e=e: t @ p["w"][e] for e in range(3)]
    return jax.vmap(jax.vmap(lambda t: lax.switch(router(p, t), branches, t)))(x)


def all_of(p, x):
    return jnp.einsum("btd,edo->bteo", x, p["w"])


def summed(p, x):
    return jnp.einsum("bteo,bte->bto", all_of(p, x), jax.nn.softmax(x @ p["r"]))


def summed_at_once(p, x):
    return jnp.einsum("bte,btd,edo->bto", one_hot(p, x), x, p["w"])


def weighed_and_summed(p, x):
    return (jnp.tanh(all_of(p, x)) * jax.nn.softmax(x @ p["r"])[..., None]).sum(2)


def taken(p, x):
    return jnp.take_along_axis(all_of(p, x), router(p, x)[..., None, None], 2)


def taken_by_index(p, x):
    jax.debug.print("tokens: {x}", x=x)  # an equation without results
    return all_of(p, x)[0][jnp.arange(x.shape[1]), router(p, x)[0]]


def taken_one_by_one(p, x):
    def one(token):
        return jax.vmap(lambda w: token @ w)(p["w"])[router(p, token)]

    return lax.map(one, x[0])


def averaged(p, x):
    return jax.vmap(lambda w: jax.nn.relu(x @ w))(p["w"]).mean(0) * (x @ p["r"]).sum()


EACH_WITH_ALL = [
    scanned,
    written_out,
    dispatched,
    switched_under_vmap,
    summed,
    summed_at_once,
    weighed_and_summed,
    taken,
    taken_by_index,
    taken_one_by_one,
    averaged,
]


@pytest.mark.parametrize("apply", EACH_WITH_ALL)
def test_every_token_with_each_expert(apply):
    params = {"w": floats(3, 16, 4), "r": floats(16, 3)}
    kernels = find_kernels(apply, params, X)
    of_experts = {name: macs for name, macs in counted(kernels).items() if name != "r"}
    assert of_experts == {f"w#{i}": 6 * 64 for i in range(3)}
    assert {k.roles for k in kernels if k.path == "w"} == {STACKED}


@pytest.mark.parametrize("apply", EACH_WITH_ALL)
def test_experts_stored_behind_their_inputs(apply):
    """[D, E, O]: the same mathematics again."""
    moved = lambda p, x: apply({**p, "w": p["w"].swapaxes(0, 1)}, x)  # noqa: E731
    kernels = find_kernels(moved, {"w": floats(16, 3, 4), "r": floats(16, 3)}, X)
    assert [k.macs for k in kernels if k.path == "w"] == [6 * 64] * 3
    assert {k.roles for k in kernels if k.path == "w"} == {Axes((1,), (), (0,), (2,))}


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: (
            jnp.einsum("btd,deo->bteo", x, p["w"]) * jax.nn.softmax(x @ p["r"])[..., None]
        ).sum(2),
        lambda p, x: jnp.einsum(
            "bteo,bte->bto", jnp.einsum("btd,deo->bteo", x, p["w"]), jax.nn.softmax(x @ p["r"])
        ),
        lambda p, x: jax.vmap(lambda w: x @ w, in_axes=1)(p["w"]).sum(0) * (x @ p["r"]).sum(),
        lambda p, x: sum((x @ p["w"][:, e]) * (x @ p["r"])[..., e : e + 1] for e in range(3)),
    ],
)
def test_einsums_of_experts_stored_behind_their_inputs(apply):
    kernels = find_kernels(apply, {"w": floats(16, 3, 4), "r": floats(16, 3)}, X)
    assert [k.macs for k in kernels if k.path == "w"] == [6 * 64] * 3


def gated(p, x):
    """Two products in each expert, and the weighed sum over all."""
    hidden = jax.nn.silu(jnp.einsum("btd,edf->btef", x, p["w"]))
    hidden *= jnp.einsum("btd,edf->btef", x, p["u"])
    return jnp.einsum("btef,efd,bte->btd", hidden, p["v"], jax.nn.softmax(x @ p["r"]))


def branches(p, x):
    def expert(w, u, v):
        return (jax.nn.gelu(x @ w) * (x @ u)) @ v

    return jax.vmap(expert)(p["w"], p["u"], p["v"]).sum(0) * (x @ p["r"]).sum()


@pytest.mark.parametrize("apply", [gated, branches])
def test_experts_of_several_products(apply):
    w, v = floats(3, 16, 4), floats(3, 4, 16)
    kernels = find_kernels(apply, {"w": w, "u": w, "v": v, "r": floats(16, 3)}, X)
    of_experts = {name: macs for name, macs in counted(kernels).items() if name != "r"}
    assert of_experts == {f"{path}#{i}": 6 * 64 for path in "wuv" for i in range(3)}


def attention(p, x):
    """Heads stored in front, as Gemma's; a gate of two parts, one of which is taken."""
    q, k = (jnp.einsum("btd,hdk->bthk", x, p[name]) for name in "qk")
    q = q + jnp.einsum("btd,dhk->bthk", x, p["as Flax"])
    q = q / jnp.sqrt((q * q).mean(-1, keepdims=True))
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k))
    y = jnp.einsum("bhts,bshk->bthk", weights, jnp.einsum("btd,hdk->bthk", x, p["v"]))
    y = jnp.einsum("bthk,hkd->btd", y, p["o"])
    gate = jnp.einsum("btd,gdf->btgf", y, p["g"])
    return gate[..., 0, :] * gate[..., 1, :]


def test_heads_and_gates_are_no_experts():
    head = floats(4, 16, 4)
    params = {"q": head, "k": head, "v": head, "o": floats(4, 4, 16), "g": floats(2, 16, 8)}
    params["as Flax"] = floats(16, 4, 4)
    kernels = {kernel.name: kernel for kernel in find_kernels(attention, params, X)}
    assert kernels.keys() == params.keys()
    assert all(kernels[name].roles == ONE_LAYER for name in "qkvg")
    assert kernels["o"].roles == Axes((), (), (0, 1), (2,))


def test_a_mixture_of_kernels_by_numbers_is_a_product_that_makes_kernels():
    def mixed(p, x):
        w = jnp.einsum("be,edo->bdo", jax.nn.softmax(x.mean(1) @ p["r"]), p["w"])
        return jnp.einsum("btd,bdo->bto", x, w)

    params = {"w": floats(3, 16, 4), "r": floats(16, 3)}
    assert counted(find_kernels(mixed, params, X)) == {"r": 48, "w": 3 * 64}
    assert activation_macs(mixed, params, X) == 6 * 64


def test_a_constant_that_pools_kernels_picks_none():
    def pooled(w, x):
        pool = (jnp.arange(2)[:, None] == jnp.arange(4) // 2) / 2
        return jnp.einsum("btd,pdo->btpo", x, jnp.tensordot(pool, w, 1))

    assert counted(find_kernels(pooled, floats(4, 16, 4), X)) == {"": 2 * 4 * 64}


def test_a_router_is_one_layer():
    def mean_of_logits(p, x):
        return summed(p, x) * (x @ p["r"]).sum(-1, keepdims=True)

    kernels = find_kernels(mean_of_logits, {"w": floats(3, 16, 4), "r": floats(16, 3)}, X)
    assert [k.name for k in kernels if k.path == "r"] == ["r"]


def test_one_hot_tokens_in_a_product_are_its_inputs():
    apply = lambda w, x: jax.nn.one_hot(x, 20) @ w  # noqa: E731
    (kernel,) = find_kernels(apply, floats(20, 8), jax.ShapeDtypeStruct((2, 6), jnp.int32))
    assert (kernel.roles, kernel.macs) == (Axes((), (), (0,), (1,)), 6 * 160)


@pytest.mark.parametrize(
    ("apply", "macs"),
    [
        (lambda p, x: jnp.einsum("btd,btod->bto", x, p["w"][router(p, x)]), 128),
        (
            lambda p, x: jnp.einsum(
                "btd,btod->bto", x, jnp.einsum("bte,eod->btod", one_hot(p, x), p["w"])
            ),
            128,
        ),
        (
            lambda p, x: jnp.einsum(
                "bte,bteo->bto", one_hot(p, x), jnp.einsum("btd,eod->bteo", x, p["w"])
            ),
            384,
        ),
    ],
)
def test_experts_that_keep_their_outputs_first(apply, macs):
    kernels = find_kernels(apply, {"w": floats(3, 4, 16), "r": floats(16, 3)}, X)
    of_w = [kernel for kernel in kernels if kernel.path == "w"]
    assert [(kernel.name, kernel.macs) for kernel in of_w] == [(f"w#{i}", macs) for i in range(3)]
    assert {kernel.roles for kernel in of_w} == {Axes((0,), (), (2,), (1,))}


@pytest.mark.parametrize("apply", [gathered, gathered_one_by_one, one_hot_sum, one_hot_one_by_one])
def test_experts_that_are_parameters_of_their_own(apply):
    def stacked(p, x):
        return apply({"w": jnp.stack(p["w"]), "r": p["r"]}, x)

    params = {"w": [floats(16, 4)] * 3, "r": floats(16, 3)}
    kernels = find_kernels(stacked, params, X)
    assert counted(kernels) == {"r": 6 * 48} | {f"w/{i}": 128 for i in range(3)}
    assert activation_macs(stacked, params, X) == 0


@pytest.mark.parametrize(
    "mask",
    [
        lambda x: (x.argmax(-1) == 1)[..., None],
        lambda x: jnp.where(x.argmax(-1) == 1, 1.0, 0.0)[..., None],
        lambda x: (jnp.arange(6) == 2)[None, :, None],
    ],
)
def test_masked_tokens_pick_nothing(mask):
    """A comparison along the tokens; heads [D, H, K] are summed over D."""
    apply = lambda w, x: jnp.einsum("btd,dhk->bthk", x * mask(x), w)  # noqa: E731
    (kernel,) = find_kernels(apply, floats(16, 4, 4), X)
    assert (kernel.roles, kernel.macs) == (Axes((), (), (0,), (1, 2)), 6 * 256)

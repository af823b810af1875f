"""Half the sum of w² E[x²] E[g²] removed, and of E[g²] δᵀHδ: where they are exact, and what for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from domino_jax.allocate import kronecker
from domino_jax.allocate.fisher import fisher_table
from domino_jax.allocate.joint_loss import joint_loss
from domino_jax.allocate.kdiag import kdiag_table
from domino_jax.allocate.kronecker import kronecker_table, kronecker_table_by_layer
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers
from domino_jax.trace.taps import Statistics

RNG = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def quadratic(orthogonal):
    """A loss that is its own quadratic: half the squares of residuals that are +1 or -1.

    Each input comes with all four signs of the two outputs' residuals, so E[g²] = 1 and the first
    order averages out.
    """
    x = np.linalg.qr(RNG.normal(size=(8, 8)))[0] if orthogonal else RNG.normal(size=(8, 8))
    w = floats(8, 2)
    signs = jnp.asarray([[1, 1], [1, -1], [-1, 1], [-1, -1]], jnp.float32)
    inputs = jnp.repeat(jnp.asarray(x, jnp.float32), 4, axis=0)
    targets = inputs @ w - jnp.tile(signs, (8, 1))

    def loss(params, batch):
        x, y = batch
        return 0.5 * jnp.square(x @ params["w"] - y).sum(1).mean()

    layers = find_layers(lambda p, x: x @ p["w"], {"w": w}, inputs[:1], 4)
    return layers, {"w": w}, loss, [(inputs, targets)]


@pytest.mark.parametrize("table", [kronecker_table, kronecker_table_by_layer])
def test_kronecker_predicts_the_rise_of_a_quadratic(table):
    layers, params, loss, batches = quadratic(orthogonal=False)
    rows = table(layers, params, loss, batches)
    of_scheme = joint_loss(layers, params, loss, batches)
    dense = of_scheme({"w": NM(4, 4)})
    for n in (1, 2):
        rise = of_scheme({"w": NM(n, 4)}) - dense
        assert rows["w"][n] == pytest.approx(rise, rel=1e-4)
    assert rows["w"][4] == 0


def test_kdiag_predicts_it_where_inputs_do_not_go_together():
    layers, params, loss, batches = quadratic(orthogonal=True)
    rows = kdiag_table(layers, params, loss, batches)
    of_scheme = joint_loss(layers, params, loss, batches)
    dense = of_scheme({"w": NM(4, 4)})
    for n in (1, 2):
        assert rows["w"][n] == pytest.approx(of_scheme({"w": NM(n, 4)}) - dense, rel=1e-4)
    assert rows["w"][4] == 0


PARAMS = {"c": floats(3, 3, 4, 8), "s": floats(2, 8, 8), "head": floats(8, 3)}
IMAGES = [floats(4, 5, 5, 8) for _ in range(2)]


def apply(p, x):
    x = lax.conv_general_dilated(
        x, p["c"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x.reshape(len(x), -1, 8), p["s"])
    return x.mean(1) @ p["head"]


def loss(params, x):
    return jnp.square(apply(params, x) - 1).sum(1).mean()


LAYERS = find_layers(apply, PARAMS, IMAGES[0], 4)


def test_one_layer_at_a_time_gives_the_same_table():
    done = []
    wanted = kronecker_table(LAYERS, PARAMS, loss, IMAGES)
    table = kronecker_table_by_layer(LAYERS, PARAMS, loss, IMAGES, report=done.append)
    assert list(table) == list(wanted) == ["c", "s#0", "s#1", "head"]
    for name, row in table.items():
        assert row == pytest.approx(wanted[name], rel=1e-4)
        assert row[1] > row[2] > row[4] == 0
    assert done == [0.25, 0.5, 0.625, 0.75, 0.875, 1]  # two batches, four layers


def by_hand():
    """kdiag's table of the head and of the last slice, from probes at their outputs."""
    table = {}
    x = jnp.concatenate(IMAGES)

    def of(probes):
        y = lax.conv_general_dilated(
            x,
            PARAMS["c"],
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        ).reshape(8, -1, 8)
        first = jnp.tanh(y @ PARAMS["s"][0])
        second = jnp.tanh(first @ PARAMS["s"][1] + probes[0])
        pooled = second.mean(1)
        out = pooled @ PARAMS["head"] + probes[1]
        return jnp.square(out - 1).sum(), (first, pooled)

    grads, seen = jax.grad(of, has_aux=True)([jnp.zeros((8, 9, 8)), jnp.zeros((8, 3))])
    weights = PARAMS["s"][1], PARAMS["head"]
    for name, x, g, w in zip(("s#1", "head"), seen, grads, weights, strict=True):
        inputs, outputs = (np.asarray(a).reshape(8, -1, a.shape[-1]) for a in (x, g))
        each = np.square(inputs).mean((0, 1))[:, None] * np.square(outputs).sum(1).mean(0)
        rise = 0.5 * each * np.square(np.asarray(w))
        magnitude = np.abs(np.asarray(w)).reshape(2, 4, -1)
        order = np.argsort(-magnitude, axis=1, kind="stable")
        ranked = np.take_along_axis(rise.reshape(2, 4, -1), order, axis=1).sum((0, 2))
        table[name] = {n: ranked[n:].sum() for n in (1, 2, 4)}
    return table


def test_kdiag_sums_over_positions_and_takes_means_over_examples():
    table = kdiag_table(LAYERS, PARAMS, loss, IMAGES)
    assert list(table) == ["c", "s#0", "s#1", "head"]
    for name, row in by_hand().items():
        assert table[name] == pytest.approx(row, rel=1e-4)


def test_the_tables_of_one_example_at_a_time_are_alike():
    """Without positions kdiag is Fisher, up to how x² and g² go together."""
    layers, params, own_loss, batches = quadratic(orthogonal=True)
    fisher = fisher_table(layers, params, own_loss, batches)
    kdiag = kdiag_table(layers, params, own_loss, batches)
    assert kdiag["w"] == pytest.approx(fisher["w"], rel=1e-4)


def test_a_layer_that_cannot_be_tapped_is_refused_with_the_reason():
    def chosen(p, x):
        picks = jnp.argmax(x[..., :2], axis=-1)
        return jnp.einsum("bi,bio->bo", x, p["s"][picks])

    def of(params, x):
        return jnp.square(chosen(params, x)).mean()

    x = floats(4, 8)
    layers = find_layers(chosen, {"s": PARAMS["s"]}, x, 4)
    for table in (kdiag_table, kronecker_table):
        with pytest.raises(InputError, match=r"s#0: .*known only at run time\): keep it dense"):
            table(layers, {"s": PARAMS["s"]}, of, [x])


def test_what_no_loss_depends_on_costs_nothing():
    def of(params, x):
        return jnp.square(lax.stop_gradient(apply(params, x)) @ params["out"]).mean()

    def with_out(p, x):
        return apply(p, x) @ p["out"]

    params = {**PARAMS, "out": floats(3, 2)}
    layers = find_layers(with_out, params, IMAGES[0], 4)
    for table in (kdiag_table, kronecker_table):
        assert table(layers, params, of, IMAGES)["head"] == {1: 0, 2: 0, 4: 0}


def test_a_loss_that_is_not_finite_is_refused():
    params = {**PARAMS, "head": PARAMS["head"] * jnp.nan}
    for table in (kdiag_table, kronecker_table):
        with pytest.raises(InputError, match="expected "):
            table(LAYERS, params, loss, IMAGES)


def test_a_layer_without_h_has_no_row():
    w = floats(8, 2)
    layers = find_layers(lambda p, x: x @ p["w"], {"w": w}, jnp.ones((1, 8)), 4)
    bare = Statistics(None, jnp.ones((1, 8)), jnp.ones(2), jnp.ones(()))
    with pytest.raises(InputError, match="w: expected a layer with groups, and its H"):
        kronecker._row(layers[0], w, w, bare)


SAME = {
    "whole": lambda w, x: x @ w,
    "outputs in three products": lambda w, x: jnp.concatenate(
        [x @ v for v in jnp.split(w, 3, 1)], 1
    ),
    "every other output": lambda w, x: jnp.stack([x @ w[:, ::2], x @ w[:, 1::2]], 2).reshape(-1, 6),
    "inputs in two products": lambda w, x: x[:, :4] @ w[:4] + x[:, 4:] @ w[4:],
}


@pytest.mark.parametrize("written", SAME)
def test_a_table_does_not_depend_on_how_many_products_a_layer_is_cut_into(written):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)}
    x = jnp.asarray(rng.normal(size=(64, 8)), jnp.float32)
    x = x.at[:, 4:].set(jnp.where(x[:, 4:] > 0, x[:, 4:], 0))

    def rows(table, written):
        def loss(params, x):
            return jnp.square(SAME[written](params["w"], x)).sum(1).mean()

        layers = find_layers(lambda p, x: SAME[written](p["w"], x), params, x, 4)
        return table(layers, params, loss, [x])["w"]

    tables = [kdiag_table]
    if written != "inputs in two products":  # whose H has no products of one part with the other
        tables += [kronecker_table, kronecker_table_by_layer]
    for table in tables:
        assert rows(table, written) == pytest.approx(rows(table, "whole"), rel=1e-5)

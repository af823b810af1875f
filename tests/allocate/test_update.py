"""The N:M update: against the same by explicit inverses, and against least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax.allocate import update
from domino_jax.allocate.update import update_layer, update_matrix, update_weights
from domino_jax.core.canonical import Axes, one_slice
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.masked import hard_mask, make_masks
from domino_jax.core.masks import top_n
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers
from domino_jax.trace.taps import Statistics, tap

RNG = np.random.default_rng(0)
COLUMN = Axes((), (), (0,), (1,))


def problem(inputs, outputs, rank=None):
    """Returns W and H of inputs that go together: fewer directions than inputs, and some noise."""
    x = RNG.normal(size=(4 * inputs, rank or inputs)) @ RNG.normal(size=(rank or inputs, inputs))
    x += 0.3 * RNG.normal(size=x.shape)
    w = RNG.normal(size=(inputs, outputs))
    return jnp.asarray(w, jnp.float32), jnp.asarray(x.T @ x / len(x), jnp.float32)


def damped(h):
    h = np.asarray(h, np.float64)
    return h + 0.01 * np.trace(h) / len(h) * np.eye(len(h))


def by_inverses(w, h, n, m, mask=None):
    """The update, one input after another, with the inverse of what is left of H at each."""
    h, w = damped(h), np.asarray(w, np.float64).copy()
    for start in range(0, len(w), m):
        corners = [np.linalg.inv(h[j:, j:])[0, 0] for j in range(start, start + m)]
        scores = np.square(w[start : start + m]) / np.asarray(corners)[:, None]
        order = np.argsort(-scores, axis=0, kind="stable").argsort(axis=0, kind="stable")
        keep = order < n if mask is None else np.asarray(mask)[start : start + m]
        for j in range(start, start + m):
            inverse = np.linalg.inv(h[j:, j:])
            gone = np.where(keep[j - start], 0, w[j])
            w[j:] -= inverse[:, :1] * gone / inverse[0, 0]
            w[j] = np.where(keep[j - start], w[j], 0)
    return w


def error(w, made, h):
    moved = np.asarray(made, np.float64) - np.asarray(w)
    return np.einsum("ko,kl,lo->", moved, np.asarray(h, np.float64), moved)


@pytest.mark.parametrize(("inputs", "n", "m"), [(16, 2, 4), (24, 1, 4), (20, 3, 10)])
def test_it_is_that_of_explicit_inverses(inputs, n, m, monkeypatch):
    """Of one block, and of several."""
    monkeypatch.setattr(update, "BLOCK", 16)
    w, h = problem(inputs, 3, inputs // 2)
    np.testing.assert_allclose(
        update_matrix(w, h, n, m), by_inverses(w, h, n, m), rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize("removed", [[0], [0, 1], [7]])
def test_what_comes_behind_solves_least_squares(removed):
    w, h = problem(8, 5)
    mask = np.ones((8, 5), bool)
    mask[removed] = False
    made = update_matrix(w, h, 2, 4, mask=jnp.asarray(mask))
    stay = [k for k in range(8) if k not in removed]
    best = np.zeros((8, 5))
    wide = damped(h)
    behind = [k for k in stay if k > removed[-1]]
    best[stay] = np.asarray(w)[stay]
    if behind:
        best[behind] += np.linalg.solve(
            wide[np.ix_(behind, behind)], wide[np.ix_(behind, removed)] @ np.asarray(w)[removed]
        )
    np.testing.assert_allclose(made, best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_it_loses_less_than_plain_masking_and_keeps_n_of_m(seed):
    del seed  # the generator goes on
    w, h = problem(32, 6, 12)
    made = update_matrix(w, h, 2, 4)
    assert (np.count_nonzero(np.asarray(made).reshape(8, 4, 6), axis=1) <= 2).all()
    mask = top_n(w, 2, 4, COLUMN)
    given = update_matrix(w, h, 2, 4, mask=mask)
    assert not given[~mask].any()
    assert error(w, made, h) < error(w, jnp.where(mask, w, 0.0), h)
    assert error(w, given, h) < error(w, jnp.where(mask, w, 0.0), h)
    np.testing.assert_array_equal(update_matrix(w, h, 4, 4), w)


def test_inputs_that_are_never_seen_hurt_nothing():
    w, _ = problem(8, 2)
    made = update_matrix(w, jnp.zeros((8, 8)), 2, 4)
    np.testing.assert_array_equal(made, jnp.where(top_n(w, 2, 4, COLUMN), w, 0.0))


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def network():
    """A grouped convolution, one that is flattened with a short last group, and a stack."""
    params = {"c": floats(3, 4, 4), "f": floats(3, 3, 4), "s": floats(2, 8, 8)}

    def apply(p, x):
        numbers = ("NWC", "WIO", "NWC")
        x = jax.lax.conv_general_dilated(
            x, p["c"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=2
        )
        x = jax.lax.conv_general_dilated(
            x[..., :3], p["f"], (1,), "SAME", dimension_numbers=numbers
        )
        x = jnp.concatenate([x, jnp.tanh(x)], -1)
        for w in p["s"]:
            x = jnp.tanh(x @ w)
        return x

    x = floats(4, 6, 8)
    layers = find_layers(apply, params, x, 4, [("f", "flatten")])
    assert [layer.reason for layer in layers] == [None] * 4
    return apply, params, x, layers


def test_each_kind_of_layer_is_updated_as_its_groups_run():
    apply, params, x, layers = network()
    taps = tap(lambda p, x: jnp.square(apply(p, x)).mean(), params, [x], layers)
    for layer in layers:
        made = update_layer(params[layer.path], layer, taps.statistics[layer.name], 2)
        own = one_slice(params[layer.path], layer.index or 0, layer.roles)
        assert made.shape == own.shape
        kept, plain = (top_n(w, 2, 4, layer.groups.along) for w in (made, own))
        assert not made[~kept].any()
        h = taps.statistics[layer.name].products
        lost = [_lost(own, new, h) for new in (made, jnp.where(plain, own, 0.0))]
        assert lost[0] < lost[1]


def test_a_network_is_updated_layer_by_layer():
    """The outputs of the whole move less than by masks, and every layer is what the scheme says."""
    apply, params, x, layers = network()
    scheme = {"c": NM(2, 4), "f": NM(4, 4), "s#0": NM(1, 4), "s#1": NM(2, 4)}
    made = update_weights(layers, params, scheme, lambda p, x: apply(p, x).sum(), [x])
    masks = make_masks(made, layers, n_by_path(scheme, layers))
    assert all(not made[path][~mask].any() for path, mask in masks.items())
    np.testing.assert_array_equal(made["f"], params["f"])
    masked = hard_mask(params, layers, n_by_path(scheme, layers))
    moved = [jnp.square(apply(p, x) - apply(params, x)).sum() for p in (made, masked)]
    assert moved[0] < moved[1]
    # The second slice saw what the first one, updated, gives it.
    after = tap(lambda p, x: apply(p, x).sum(), made, [x], layers).statistics["s#1"]
    again = update_layer(params["s"], layers[3], after, 2)
    np.testing.assert_allclose(made["s"][1:], again, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="scheme"):
        update_weights(layers, params, {"c": NM(2, 4)}, lambda p, x: apply(p, x).sum(), [x])


def _lost(own, made, h):
    groups, inputs, _ = h.shape
    moved = np.asarray(made - own).reshape(inputs, groups, -1)
    return np.einsum("kgo,gkl,lgo->", moved, np.asarray(h), moved)


def test_wrong_input_says_what_came():
    w, h = problem(8, 2)
    with pytest.raises(InputError, match=r"expected H of shape \(8, 8\).*got H \(4, 4\)"):
        update_matrix(w, h[:4, :4], 2, 4)
    for n in (0, 5):
        with pytest.raises(InputError, match=rf"weights to keep of every 4, got {n}"):
            update_matrix(w, h, n, 4)
    with pytest.raises(InputError, match="runs of 3"):
        update_matrix(w, h, 2, 4, run=3)
    layers = find_layers(lambda p, x: x @ p["w"], {"w": w}, jnp.ones((1, 8)), 4)
    bare = Statistics(None, jnp.ones((1, 8)), jnp.ones(2), jnp.ones(()))
    with pytest.raises(InputError, match="w: expected a grouped layer and its statistics with H"):
        update_layer(w, layers[0], bare, 2)


def test_a_layer_whose_inputs_cannot_be_seen():
    w = jnp.ones((8, 2))
    layers = find_layers(lambda p, x: x @ p["w"], {"w": w}, jnp.ones((1, 8)), 4)
    with pytest.raises(InputError, match="w: expected a layer whose inputs can be seen, got '"):
        update_weights(layers, {"w": w}, {"w": NM(2, 4)}, lambda p, x: x.sum(), [jnp.ones((2, 8))])

"""The search on hand-drawn votes, and number for number against the published method's trace."""

import dataclasses
from fractions import Fraction

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from domino_jax.allocate.domino import domino
from domino_jax.allocate.paces import domino_pace
from domino_jax.allocate.reach import fewest_votes, require_reachable
from domino_jax.allocate.search import by_layer, scheme_of
from domino_jax.core import costs
from domino_jax.core.masked import hard_mask, make_masks
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers
from domino_jax.train import loop, losses, mesh
from domino_jax.train.step import init_state, search_step
from domino_jax.train.transforms import survivor_decay, survivors


def dense_apply(params, x):
    for name in params:
        x = x @ params[name]
    return x


def two_layers(rng_seed=0, m=4, **options):
    rng = np.random.default_rng(rng_seed)
    params = {
        "a": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32),
    }
    return params, find_layers(dense_apply, params, jnp.zeros((1, 8)), m, **options)


def test_votes_lower_n_and_commit_at_candidates():
    params, layers = two_layers()
    search = domino(layers, 0.3, vote_ratio=0.5)
    state = search.init(params)
    assert {path: int(n) for path, n in state.n.items()} == {"a": 4, "b": 4}
    # One weight of each group of four is above its threshold: everything agrees down to n = 2.
    params = {k: jnp.zeros_like(v).at[::4].set(9.0) for k, v in params.items()}
    seen = []
    while not state.done and len(seen) < 9:
        state = search.update(state, params)
        seen.append([(int(state.n[p]), int(state.committed[p])) for p in ("a", "b")])
    # 40 weights, 12 allowed; 1:4 is reached by a (8 weights) and not by b (2:4, 4 weights).
    assert seen == [[(3, 4), (3, 4)], [(2, 2), (2, 2)], [(1, 1), (2, 2)]]
    assert int(state.count) == 3
    assert scheme_of(layers, state) == {"a": NM(1, 4), "b": NM(2, 4)}
    assert search.update(state, params) is state


def test_a_vote_does_not_make_the_step_compile_anew():
    params, layers = two_layers()
    search = domino(layers, 0.3, vote_ratio=0.5)
    everywhere = NamedSharding(mesh.make_mesh(), PartitionSpec())
    state = jax.device_put(search.init(params), everywhere)
    traces = []

    @jax.jit
    def step(n, pace):
        traces.append(n)
        return n, pace

    step(state.n, state.pace)
    voted = search.update(state, {k: jnp.zeros_like(v) for k, v in params.items()})
    assert int(voted.n["a"]) == 3
    assert voted.n["a"].sharding == everywhere
    step(voted.n, voted.pace)
    assert len(traces) == 1


def two_of_four(params):
    """Keeps the two largest of every four, as our own export does."""
    layers = find_layers(dense_apply, params, jnp.zeros((1, 8)), 4)
    return hard_mask(params, layers, {"a": 2, "b": 2})


def test_a_start_that_is_sparse_already_goes_on_from_there():
    params, layers = two_layers()
    sparse = two_of_four(params)
    search = domino(layers, 0.25, vote_ratio=0.5)
    state = search.init(sparse)
    assert by_layer(layers, state.n) == by_layer(layers, state.committed) == {"a": 2, "b": 2}
    assert not state.done
    # The smaller of each two is the threshold: survivors that shrink fall below it.
    pairs = np.sort(np.abs(np.asarray(sparse["a"]).reshape(2, 4, 4)), axis=1)
    np.testing.assert_allclose(state.threshold["a"][0, 0], pairs[:, 2], rtol=1e-6)
    shrunk = jax.tree.map(lambda w: 0.5 * w, sparse)
    state = search.update(state, shrunk)
    assert by_layer(layers, state.n) == {"a": 1, "b": 1}
    assert state.done


def test_a_start_that_meets_the_budget_is_done():
    params, layers = two_layers()
    state = domino(layers, 0.5).init(two_of_four(params))
    assert state.done
    assert scheme_of(layers, state) == {"a": NM(2, 4), "b": NM(2, 4)}


@pytest.mark.parametrize(("nonzeros", "n"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4)])
def test_the_first_n_holds_the_fullest_group(nonzeros, n):
    params, layers = two_layers()
    one = jnp.zeros((8, 4)).at[:nonzeros, 1].set(1.0)
    state = domino(layers, 0.3).init(params | {"a": one})
    assert by_layer(layers, state.n) == {"a": n, "b": 4}
    assert not np.isnan(state.threshold["a"]).any()


def test_votes_need_their_share_of_groups():
    params, layers = two_layers(candidates=(1, 2, 3, 4))
    half = jnp.zeros((8, 4)).at[0, 0].set(1.0)
    for ratio, expected in ((1.0, 4), (0.99, 4), (Fraction(7, 8), 3), (0.5, 3)):
        search = domino(layers, 0.3, vote_ratio=float(ratio))
        state = search.init(params)
        # One group of eight has all its weights above the threshold, seven have none.
        threshold = {"a": jnp.full_like(state.threshold["a"], 0.5), "b": state.threshold["b"] * 0}
        full = half.at[:4, 0].set(1.0)
        state = search.update(state._replace(threshold=threshold), params | {"a": full})
        assert int(state.n["a"]) == expected


@pytest.mark.parametrize(
    ("paces", "said"),
    [
        ({"a": 1.0}, "expected a finite factor for layer 'b', got none"),
        ({"a": 1.0, "b": float("nan")}, "for layer 'b', got nan"),
        ({"a": np.float32("inf"), "b": 1.0}, "for layer 'a', got inf"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "unknown layer of a pace rule 'c'"),
    ],
)
def test_wrong_paces_are_refused(paces, said):
    params, layers = two_layers()
    with pytest.raises(ValueError, match=said):
        domino(layers, 0.3, pace=lambda committed: paces).init(params)
    right = {"a": 0.0, "b": -1}
    rule = lambda committed: right if committed["a"] == 4 else paces  # noqa: E731
    search = domino(layers, 0.3, vote_ratio=0.5, pace=rule)
    state = search.init(params)
    assert float(state.pace["b"]) == -1
    zeros = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}
    state = search.update(state, zeros)
    with pytest.raises(ValueError, match=said):
        search.update(state, zeros)


def test_budget_out_of_reach_is_refused_with_the_floor():
    params, layers = two_layers(rules=[("b", "dense")])
    with pytest.raises(ValueError, match=r"budget 0.3 is out of reach.*0\.4000 \(16 of 40\)"):
        domino(layers, 0.3)
    for wrong in (0, 1, -0.1, 1.5, float("nan"), True, None):
        with pytest.raises(ValueError, match="budget: expected a share above 0"):
            domino(layers, wrong)
    with pytest.raises(ValueError, match="expected less than the dense 40, got '50'"):
        domino(layers, "50")
    with pytest.raises(ValueError, match="vote_ratio"):
        domino(layers, 0.5, vote_ratio=0)
    del params


def test_the_floor_names_the_flatten_rule():
    kernel = jnp.zeros((3, 3, 3, 8))

    def apply(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["stem"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.mean((1, 2)) @ params["head"]

    params = {"stem": kernel, "head": jnp.zeros((8, 8))}
    layers = find_layers(apply, params, jnp.zeros((1, 4, 4, 3)), 4)
    # stem 216 weights, dense; flattened: 27 inputs a filter, 7 groups.
    with pytest.raises(ValueError, match=r"0\.8286 .*; 0\.2572 .*'flatten'"):
        require_reachable(layers, costs.budget_of(layers, 0.2))


@pytest.mark.parametrize(
    ("share", "options", "votes"),
    [
        (0.99, {}, 2),  # 4:4 to 2:4, by way of 3
        (0.5, {}, 2),
        (0.49, {}, 3),
        (0.25, {}, 3),
        (0.99, {"candidates": (3, 4)}, 1),
        (0.75, {"candidates": (1, 4)}, 3),
        (0.6, {"rules": [("b", "dense")]}, 2),
        (0.59, {"rules": [("b", "dense")]}, 3),
    ],
)
def test_fewest_votes(share, options, votes):
    params, layers = two_layers(**options)
    assert fewest_votes(layers, costs.budget_of(layers, share)) == votes
    # Nothing is above the mean of equal weights: everything always agrees.
    params = jax.tree.map(jnp.ones_like, params)
    search = domino(layers, share)
    state = search.init(params)
    while not state.done:
        state = search.update(state, params)
    assert int(state.count) == votes


def test_fewest_votes_of_a_budget_out_of_reach():
    _, layers = two_layers()
    with pytest.raises(ValueError, match=r"budget 0\.2 is out of reach"):
        fewest_votes(layers, costs.budget_of(layers, 0.2))


def test_pace_is_zero_of_erk_when_reached():
    _, layers = two_layers()
    rule = domino_pace(layers, 0.5, macs_weight=0.0, erk_weight=1.0)
    assert rule({"a": 1, "b": 1}) == {"a": 0.0, "b": 0.0}
    assert rule({"a": 4, "b": 4})["a"] == 1.0


# A thousand steps: that they run fast matters more than that they compile fast.
QUICK = {"xla_backend_optimization_level": 3}


def test_reference_search_number_for_number():
    arrays, meta = golden.load("search_trace_m8")
    with jax.enable_x64(True):
        apply, params = golden.make_apply(meta), golden.params_of(arrays, "init")
        found = find_layers(apply, params, jnp.zeros((1, 12, 12, 8)), meta["M"])
        assert [spec.name for spec in found] == golden.paths(meta)
        # The published MACs count the bias adds of the last layer.
        layers = [
            dataclasses.replace(spec, macs=int(meta["flops"][name]))
            for spec, name in zip(found, meta["names"], strict=True)
        ]
        assert [a.macs for a in found[:-1]] == [a.macs for a in layers[:-1]]
        search = domino(layers, 1 - meta["target"], vote_ratio=meta["vote"])
        tx = optax.chain(
            survivors(),
            survivor_decay(layers, meta["decay"], meta["penalty_every"]),
            optax.sgd(meta["lr"]),
        )
        history, factors, losses_seen = [], [], {}

        def record(step, loss, run):
            losses_seen[step] = loss  # the last one comes again after the last vote

        def recorded(state, params):
            state = search.update(state, params)
            history.append([[int(v[p]) for v in (state.n, state.committed)] for p in paths])
            factors.append([float(state.pace[p]) for p in paths])
            return state

        paths = golden.paths(meta)
        state = search.init(params)
        for path, name in zip(paths, meta["names"], strict=True):
            wide = state.threshold[path][0]  # window, group, output -> output, window, group
            np.testing.assert_allclose(
                wide.transpose(2, 0, 1).reshape(-1, 1), arrays[f"threshold/{name}"], rtol=1e-12
            )
        model = lambda p, stats, x, *, train, key: (apply(p, x), stats)  # noqa: E731
        run = loop.run_search(
            jax.jit(search_step(model, losses.cross_entropy(), tx, layers), compiler_options=QUICK),
            search._replace(update=recorded),
            loop.SearchRun(init_state(params, {}, tx), state),
            golden.batches(arrays, meta),
            jax.random.key(0),
            vote_every=meta["check_every"],
            max_steps=1000,
            stuck=lambda run: "",
            hooks=loop.Hooks(log=record, log_every=1),
        )
        assert int(run.train.step) == meta["iterations"]
        assert np.array_equal(np.array(history), arrays["history"])
        np.testing.assert_allclose(factors, arrays["factors"], rtol=0, atol=1e-9)
        seen = list(losses_seen.values())
        np.testing.assert_allclose(seen, arrays["losses"][: len(seen)], rtol=0, atol=1e-9)
        final = golden.params_of(arrays, "final")
        for ours, theirs in zip(
            jax.tree.leaves(run.train.params), jax.tree.leaves(final), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        kept = make_masks(run.train.params, layers, run.search.committed)
        for path, name in zip(paths, meta["names"], strict=True):
            theirs = arrays[f"final_mask/{name}"].astype(bool)
            assert np.array_equal(golden.torch_layout(path, kept[path]), theirs)


def test_parameters_with_leaves_that_are_no_arrays():
    """A module of Equinox holds its activation functions among its leaves."""

    def net(p, x):
        return p["f"](x @ p["w"])

    params = {"f": jnp.tanh, "name": "net", "w": jnp.arange(32.0).reshape(8, 4)}
    search = domino(find_layers(net, params, jnp.zeros((1, 8)), 4), 0.6)
    state = search.update(search.init(params), params)
    assert int(state.n["w"]) in (3, 4)
    with pytest.raises(ValueError, match=r"w: expected the shape of its layer, \(8, 4\), got \(4"):
        search.init({"w": params["w"].T})

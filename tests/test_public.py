"""Every public name is what it says: each one is called, on a network of two matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_imports

import domino_jax as dj

PARAMS = {"a": jnp.arange(1.0, 65).reshape(8, 8), "b": jnp.ones((8, 4))}
X = jnp.ones((2, 8))
AXES = dj.Axes((), (), (0,), (1,))


def apply(params, x):
    return x @ params["a"] @ params["b"]


LAYERS = dj.find_layers(apply, PARAMS, X, 4)
SCHEME = {"a": dj.NM(2, 4), "b": dj.NM(1, 4)}
N = dj.n_by_path(SCHEME, LAYERS)
MASKS = dj.make_masks(PARAMS, LAYERS, N)
SEARCH = dj.domino(LAYERS, 0.5)
PROBLEM = dj.Problem(LAYERS, dj.budget_of(LAYERS, 0.5))


def updated(transform, **extra):
    """Returns what a transform makes of gradients of one."""
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    return transform.update(ones, transform.init(PARAMS), PARAMS, masks=MASKS, **extra)[0]


def adapted(transform):
    """Returns what an Adam makes of them; optax mixes types in its bias correction."""
    with jax.numpy_dtype_promotion("standard"):
        return bool(np.isfinite(updated(transform)["a"]).all())


# a alone is pruned: 16 of its 64 weights, and all 32 of b, are exactly half of the 96.
TABLE = {"a": {1: 1.0, 2: 0.5, 4: 0.0}, "b": {1: 8.0, 2: 4.0, 4: 0.0}}


def loss(params, x):
    return jnp.square(apply(params, x) - 2.0 * apply(PARAMS, x)).mean()


def falls(table):
    """Says whether each layer's losses fall to 0."""
    rows = [list(row.values()) for row in table.values()]
    return all(row == sorted(row, reverse=True) and row[0] > row[-1] == 0 for row in rows)


def saved(folder):
    dj.save_scheme(folder / "scheme.json", SCHEME)
    return dj.load_scheme(folder / "scheme.json")


def kept(params):
    return {path: int(jnp.count_nonzero(leaf)) for path, leaf in params.items()}


TRAINING = dj.Training(
    LAYERS,
    4,
    lambda step: 0.1,
    {
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "sr_ste": 0.0},
        **{"ramp_from": 0.0, "ramp_until": 1.0},
    },
)
LABELS = jnp.zeros(2, jnp.int32)
TEACH = dj.teaching(lambda params, stats, inputs, *, train, key: (inputs, stats), {}, {})
TAUGHT_LOSS = dj.distilled(lambda outputs, batch: outputs.sum(), 1.0, 2.0)

# Name -> whether what it does is right; `folder` is empty.
CALLS = {
    "NM": lambda folder: str(dj.NM(2, 4)) == "2:4",
    "TRAINERS": lambda folder: "maxq" in dj.TRAINERS,
    "Training": lambda folder: TRAINING.layers == LAYERS,
    "Axes": lambda folder: AXES.order == (0, 1),
    "ALLOCATORS": lambda folder: "domino" in dj.ALLOCATORS,
    "Budget": lambda folder: isinstance(PROBLEM.budget, dj.Budget),
    "Problem": lambda folder: PROBLEM.layers == LAYERS,
    "SCORES": lambda folder: "wanda" in dj.SCORES,
    "allocator": lambda folder: dj.allocator("erk")(PROBLEM) == dj.erk_scheme(LAYERS, 0.5),
    "axis_factors": lambda folder: (
        # Of the eight of a column, the four largest lie above the threshold by far.
        dj.axis_factors(PARAMS, LAYERS, N)["a"][:, 0].round(3).tolist() == [1.0] * 4 + [2.0] * 4
    ),
    "budget_of": lambda folder: PROBLEM.budget.allowed == 48,
    "Groups": lambda folder: dj.Groups(AXES, (1, 2, 4)).m == 4,
    "InputError": lambda folder: issubclass(dj.InputError, ValueError),
    "LayerSpec": lambda folder: isinstance(LAYERS[0], dj.LayerSpec) and LAYERS[0].m == 4,
    "Model": lambda folder: isinstance(dj.plain(apply, PARAMS), dj.Model),
    "Scheme": lambda folder: isinstance(SCHEME, dict) and dj.Scheme is not None,
    "Search": lambda folder: isinstance(SEARCH, dj.Search),
    "SearchState": lambda folder: isinstance(SEARCH.init(PARAMS), dj.SearchState),
    "activation_macs": lambda folder: dj.activation_macs(apply, PARAMS, X) == 0,
    "apply_masks": lambda folder: kept(dj.apply_masks(PARAMS, MASKS)) == {"a": 32, "b": 8},
    "constant_pace": lambda folder: dj.constant_pace({"a": 4}) == {"a": 1.0},
    "count_macs": lambda folder: dj.count_macs(LAYERS[0], 1) == 16,
    "count_weights": lambda folder: dj.count_weights(LAYERS[0], 1) == 16,
    "decay_masked": lambda folder: (
        dj.decay_masked(PARAMS, MASKS, 0.5)["b"][:4, 0].tolist() == [1.0, 0.5, 0.5, 0.5]
    ),
    "distilled": lambda folder: (
        float(TAUGHT_LOSS(X, TEACH({"inputs": X, "labels": LABELS}))) == 0.0
    ),
    "domino": lambda folder: bool(SEARCH.init(PARAMS).done) is False,
    "domino_pace": lambda folder: set(dj.domino_pace(LAYERS, 0.5)({"a": 4, "b": 4})) == {"a", "b"},
    "erk_scheme": lambda folder: set(dj.erk_scheme(LAYERS, 0.5)) == {"a", "b"},
    "exact_scheme": lambda folder: dj.exact_scheme(LAYERS, TABLE, [PROBLEM.budget]).loss == 1.0,
    "find_kernels": lambda folder: (
        [kernel.macs for kernel in dj.find_kernels(apply, PARAMS, X)]
        == [layer.macs for layer in LAYERS]
    ),
    "find_channels": lambda folder: dj.find_channels(apply, PARAMS, X) == ({"a": (1,), "b": (0,)},),
    "find_layers": lambda folder: [layer.name for layer in LAYERS] == ["a", "b"],
    "fisher_table": lambda folder: falls(dj.fisher_table(LAYERS, PARAMS, loss, [X])),
    "fixed_masks": lambda folder: kept(updated(dj.fixed_masks(optax.sgd(1.0)))) == kept(MASKS),
    "flattened": lambda folder: dj.flattened(LAYERS, 4) == LAYERS,
    "gradual_n": lambda folder: dj.gradual_n(LAYERS, N, jnp.float32(1.0)) == {"a": 4, "b": 4},
    "halved_n": lambda folder: dj.halved_n(LAYERS, N, jnp.float32(0.5)) == {"a": 3, "b": 2},
    "hard_mask": lambda folder: kept(dj.hard_mask(PARAMS, LAYERS, N)) == {"a": 32, "b": 8},
    "kdiag_table": lambda folder: falls(dj.kdiag_table(LAYERS, PARAMS, loss, [X])),
    "kronecker_table": lambda folder: falls(dj.kronecker_table(LAYERS, PARAMS, loss, [X])),
    "load_scheme": lambda folder: saved(folder) == SCHEME,
    "make_masks": lambda folder: kept(MASKS) == {"a": 32, "b": 8},
    "make_scores": lambda folder: (
        set(dj.make_scores("wanda", LAYERS, PARAMS, loss, [X])) == {"a", "b"}
    ),
    "make_ramp": lambda folder: float(dj.make_ramp("cubic", 0, 1, 4).left(jnp.int32(2))) == 0.125,
    "make_trainer": lambda folder: (
        kept(dj.make_trainer("maxq", TRAINING).finish(PARAMS, {}, N)) == kept(MASKS)
    ),
    "n_by_path": lambda folder: {path: int(n) for path, n in N.items()} == {"a": 2, "b": 1},
    "permute_channels": lambda folder: (
        # The four largest rows share a group of four, of which two are kept: apart, all four are.
        dj.permute_channels(PARAMS, LAYERS, N, {"a": 0}).kept == (1296.0, 1552.0)
    ),
    "plain": lambda folder: dj.plain(apply, PARAMS).stats == {},
    "rising_masks": lambda folder: (
        kept(dj.rising_masks(PARAMS, LAYERS, N, jnp.float32(1.0))) == {"a": 64, "b": 32}
    ),
    "save_scheme": lambda folder: list(saved(folder)) == ["a", "b"],
    "scale_by_step": lambda folder: float(updated(dj.scale_by_step(1, 2))["a"].max()) <= 1.001,
    "scheme_of": lambda folder: dj.scheme_of(LAYERS, SEARCH.init(PARAMS)) == dj.uniform(LAYERS, 4),
    "sensitivity_table": lambda folder: falls(dj.sensitivity_table(LAYERS, PARAMS, loss, [X])),
    "sr_ste": lambda folder: float(updated(dj.sr_ste(1.0))["b"][3, 0]) == 2.0,
    "sr_ste_adamw": lambda folder: adapted(dj.sr_ste_adamw(0.1, 1e-3, 0.0)),
    "sr_ste_adamw_decoupled": lambda folder: adapted(dj.sr_ste_adamw_decoupled(0.1, 1e-3, 0.0)),
    "step_adamw": lambda folder: updated(dj.step_adamw(0.5, 0.0, 1, 2))["a"].round(3).max() == -0.5,
    "straight_through": lambda folder: (
        float(jax.grad(lambda p: dj.straight_through(p, LAYERS, N)["b"].sum())(PARAMS)["b"].min())
        == 1.0
    ),
    "survivor_decay": lambda folder: (
        float(
            updated(
                dj.survivor_decay(LAYERS, 1.0), pace={"a": jnp.float32(1), "b": jnp.float32(2)}
            )["b"][0, 0]
        )
        == 3.0
    ),
    "survivors": lambda folder: kept(updated(dj.survivors())) == kept(MASKS),
    "table_cost": lambda folder: dj.table_cost({"a": 2.0, "b": 1.0}, LAYERS)(LAYERS[0], 2) == 1,
    "tap": lambda folder: bool(
        (dj.tap(loss, PARAMS, [X], LAYERS).statistics["a"].products == 1).all()
    ),
    "tap_each": lambda folder: (
        [name for name, own in dj.tap_each(loss, PARAMS, [X], LAYERS)] == ["a", "b"]
    ),
    "teaching": lambda folder: TEACH({"inputs": X})["teacher"].tolist() == X.tolist(),
    "top_n": lambda folder: int(dj.top_n(PARAMS["a"], 1, 4, AXES).sum()) == 16,
    "total_cost": lambda folder: dj.total_cost(LAYERS, dj.count_weights, SCHEME) == 40,
    "uniform": lambda folder: dj.uniform(LAYERS, 2) == {"a": dj.NM(2, 4), "b": dj.NM(2, 4)},
    "uniform_scheme": lambda folder: dj.uniform_scheme(LAYERS, 0.5) == dj.uniform(LAYERS, 2),
    "update_matrix": lambda folder: (
        int(jnp.count_nonzero(dj.update_matrix(PARAMS["a"], jnp.eye(8), 1, 4))) == 16
    ),
    "update_weights": lambda folder: (
        kept(dj.update_weights(LAYERS, PARAMS, SCHEME, loss, [X])) == {"a": 32, "b": 8}
    ),
}


@pytest.mark.parametrize("name", dj.__all__)
def test_a_public_name_does_what_it_says(name, tmp_path):
    assert CALLS[name](tmp_path)


def test_every_call_is_of_a_public_name():
    assert set(CALLS) == set(dj.__all__)


def test_no_public_name_is_that_of_a_room():
    """Importing the room would put the module in the name's place."""
    assert not set(dj.__all__) & set(test_imports.ROOMS)

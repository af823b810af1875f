"""The rule 'shrink': smaller groups where M does not divide the inputs, and schemes of mixed M."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from rich.console import Console

import domino_jax as dj
from domino_jax.allocate import paces
from domino_jax.allocate.reach import fewest_votes
from domino_jax.allocate.uniform import uniform_scheme
from domino_jax.core import costs, scheme
from domino_jax.core.erk import erk
from domino_jax.core.kernels import n_by_path
from domino_jax.core.rules import shrunk
from domino_jax.core.scheme import NM
from domino_jax.pytorch import exported
from domino_jax.pytorch.document import Network
from domino_jax.pytorch.writer import export as write
from domino_jax.run import experiment, report, settings
from domino_jax.train import loop, losses
from domino_jax.train.step import init_state, search_step

F = jnp.float32
SHRINK = (("", "shrink"),)
# Name: (kernel HWIO, groups of the convolution). With M = 16 the inputs of one group allow
# M = 8, 16, 4, 2 and none; the stem's three inputs none either.
CONVOLUTIONS = {
    "stem": ((3, 3, 3, 48), 1),
    "halves": ((3, 3, 24, 48), 2),
    "mix": ((1, 1, 48, 32), 1),
    "eighths": ((3, 3, 4, 32), 8),
    "pairs": ((3, 3, 2, 32), 16),
    "each": ((3, 3, 1, 32), 32),
}
SHAPES = {name: shape for name, (shape, _) in CONVOLUTIONS.items()} | {"head": (32, 3)}
GROUP_SIZES = {"halves": 8, "mix": 16, "eighths": 4, "pairs": 2, "head": 16}


def apply(params, x):
    for name, (_, groups) in CONVOLUTIONS.items():
        x = jax.nn.relu(
            lax.conv_general_dilated(
                x,
                params[name],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        )
    return x.mean((1, 2)) @ params["head"]


def weights():
    rng = np.random.default_rng(0)

    def draw(shape):
        return jnp.asarray(rng.normal(size=shape) * math.prod(shape[:-1]) ** -0.5, F)

    return {name: draw(shape) for name, shape in SHAPES.items()}


def find(rules=SHRINK, m=16, candidates=None):
    shapes = {name: jax.ShapeDtypeStruct(shape, F) for name, shape in SHAPES.items()}
    return dj.find_layers(
        apply, shapes, jax.ShapeDtypeStruct((1, 4, 4, 3), F), m, rules, candidates=candidates
    )


@pytest.mark.parametrize("shrink", [True, False])
def test_the_setting_is_the_last_rule(shrink):
    search = settings.defaults().search
    search.shrink_m, search.rules = shrink, (("pairs", "dense"),)
    model, example = dj.plain(apply, weights()), jax.ShapeDtypeStruct((1, 4, 4, 3), F)
    found = experiment.layers_of(model, example, search)
    assert found == find([("pairs", "dense"), *(SHRINK if shrink else ())])
    assert found != find([("pairs", "dense"), *(() if shrink else SHRINK)])


@pytest.mark.parametrize(
    ("m", "candidates"), [(16, None), (16, (4, 8, 16)), (32, None), (12, None)]
)
def test_the_rule_without_a_trace(m, candidates):
    assert shrunk(find((), m, candidates), m, candidates) == find(SHRINK, m, candidates)


def test_an_unreachable_budget_names_the_rules_that_lower_it():
    with pytest.raises(ValueError, match=r"with the 'flatten' rule; .* with the 'shrink' rule$"):
        dj.domino(find(()), 0.001)
    with pytest.raises(ValueError, match=r"at the least; [^;]* with the 'flatten' rule$"):
        dj.domino(find(SHRINK), 0.001)


def masked(params, found):
    layers = find()
    n = dj.n_by_path(found, layers)
    return jax.jit(lambda p: dj.hard_mask(p, layers, n))(params)


def by_name(layers):
    return {spec.name: spec for spec in layers}


def test_without_the_rule_the_reason_names_it():
    assert {spec.name: spec.reason for spec in find(())} == {
        "stem": "input size 3 is no multiple of 16",
        "halves": "input size 24 is no multiple of 16 (M = 8 by the rule 'shrink')",
        "mix": None,
        "eighths": "input size 4 is no multiple of 16 (M = 4 by the rule 'shrink')",
        "pairs": "input size 2 is no multiple of 16 (M = 2 by the rule 'shrink')",
        "each": "depthwise",
        "head": None,
    }


def test_groups_shrink_to_what_divides_their_inputs():
    layers = find()
    assert {spec.name: spec.candidates for spec in layers if not spec.reason} == {
        "halves": (1, 2, 4, 8),
        "mix": (1, 2, 4, 8, 16),
        "eighths": (1, 2, 4),
        "pairs": (1, 2),
        "head": (1, 2, 4, 8, 16),
    }
    assert {spec.name: spec.reason for spec in layers if spec.reason} == {
        "stem": "input size 3 is no multiple of 16",
        "each": "depthwise",
    }
    hwio = dj.Axes((), (0, 1), (2,), (3,))
    assert {spec.roles for spec in layers if spec.name != "head"} == {hwio}
    assert by_name(layers)["halves"].macs == 16 * 9 * 24 * 48


@pytest.mark.parametrize(
    ("m", "candidates", "halves"),
    [
        (12, None, (1, 2, 4, 8, 12)),  # 24 is a multiple of 12: nothing changes
        (36, None, (1, 2, 4, 8, 12)),
        (16, (3, 6, 16), (3, 6, 8)),
        (16, (8, 16), ()),  # 8:8 alone would be no choice
        (16, (8, 12, 16), ()),
        (7, None, ()),
    ],
)
def test_candidates_below_the_smaller_group(m, candidates, halves):
    kernel, x = jax.ShapeDtypeStruct((24, 4), F), jax.ShapeDtypeStruct((1, 24), F)
    params = {"halves": kernel, "fits": jax.ShapeDtypeStruct((m, 4), F)}
    inputs = {"x": x, "y": jax.ShapeDtypeStruct((1, m), F)}
    layers = dj.find_layers(
        lambda p, x: (x["x"] @ p["halves"], x["y"] @ p["fits"]),
        params,
        inputs,
        m,
        SHRINK,
        candidates=candidates,
    )
    found = by_name(layers)
    assert found["halves"].candidates == halves
    assert found["halves"].reason == (None if halves else f"input size 24 is no multiple of {m}")
    assert found["fits"].m == m


def test_the_first_rule_wins():
    rules = [("stem", "flatten"), ("mix", "dense"), ("halves", (2, 4)), ("pairs", 2), *SHRINK]
    found = by_name(find(rules))
    assert (found["stem"].m, found["stem"].groups.along.window) == (16, ())
    assert found["mix"].reason == "dense by rule 'mix'"
    assert found["halves"].candidates == (2, 4)
    assert found["pairs"].candidates == (1, 2)
    assert (found["eighths"].m, found["head"].m) == (4, 16)
    with pytest.raises(ValueError, match="rule 'halves': halves: input size 24 is no multiple"):
        find([("halves", 16), *SHRINK])


def test_flattened_leaves_what_shrank():
    assert dj.flattened(find(), 16) == find([("stem", "flatten"), *SHRINK])
    flat = by_name(dj.flattened(find(()), 16))
    assert {name: flat[name].m for name in ("stem", "halves", "eighths", "pairs")} == dict.fromkeys(
        ("stem", "halves", "eighths", "pairs"), 16
    )
    with pytest.raises(ValueError, match=r"least; 0\.\d+ .* with the 'flatten' rule"):
        dj.domino(find(), 0.1)


def test_a_scheme_of_mixed_m_is_a_file(tmp_path):
    found = {name: NM(1, m) for name, m in GROUP_SIZES.items()}
    scheme.save(tmp_path / "scheme.json", found)
    read = scheme.load(tmp_path / "scheme.json")
    assert read == found
    n = n_by_path(read, find())
    assert {name: int(level) for name, level in n.items()} == dict.fromkeys(GROUP_SIZES, 1)
    with pytest.raises(ValueError, match=r"halves: expected N == M .* got 1:8: .* stays dense"):
        n_by_path(read, find(()))


def test_costs_and_table():
    layers = find()
    found = {name: NM(1, m) for name, m in GROUP_SIZES.items()}
    kept = {name: math.prod(SHAPES[name]) // m for name, m in GROUP_SIZES.items()}
    dense = math.prod(SHAPES["stem"]) + math.prod(SHAPES["each"])
    assert costs.total_cost(layers, costs.count_weights, found) == dense + sum(kept.values())
    macs = 16 * (dense + sum(kept.values())) - 15 * kept["head"]  # 4x4 positions, one for the head
    assert costs.total_cost(layers, costs.count_macs, found) == macs
    assert costs.total_cost(layers, costs.table_cost(dict.fromkeys(SHAPES, 16), layers), found) == (
        2 * 16 + 2 + 1 + 4 + 8 + 1
    )
    summary = report.summary(layers, found, costs.budget_of(layers, 0.5))
    rows = {row["name"]: (row["nm"], row["density"]) for row in summary["layers"]}
    assert rows["halves"] == ("1:8", 1 / 8)
    assert (rows["pairs"], rows["each"]) == (("1:2", 1 / 2), ("", 1.0))
    console = Console(width=200)
    with console.capture() as shown:
        report.print_table(summary, "params", 0.5, console)
    assert "1:4" in shown.get()


def test_uniform_takes_the_same_share():
    layers = find()
    quarter = {
        "halves": (2, 8),
        "mix": (4, 16),
        "eighths": (1, 4),
        "pairs": (1, 2),
        "head": (4, 16),
    }
    quarter = {name: NM(*nm) for name, nm in quarter.items()}
    share = costs.total_cost(layers, costs.count_weights, quarter) / costs.total_cost(
        layers, costs.count_weights
    )
    assert uniform_scheme(layers, share + 1e-6) == quarter
    lower = uniform_scheme(layers, share - 1e-6)
    assert {name: nm.n for name, nm in lower.items()} == {
        **{"halves": 1, "mix": 2, "eighths": 1, "pairs": 1, "head": 2}
    }


def test_search_and_training_with_mixed_m():
    params, layers = weights(), find()
    # Of 15,312 weights 6,124 may stay: 'halves' must come from 8:8 to 1:8.
    assert fewest_votes(layers, costs.budget_of(layers, 0.4)) == 7
    search = dj.domino(layers, 0.4)
    tx = optax.chain(
        dj.survivors(), dj.survivor_decay(layers, penalty=4.0, every=1), optax.sgd(0.05)
    )
    model = dj.plain(apply, params)
    x = np.random.default_rng(1).normal(size=(4, 4, 4, 3)).astype(np.float32)
    batches = iter(lambda: {"inputs": x, "labels": np.arange(4, dtype=np.int32) % 3}, None)
    state = init_state(jax.tree.map(jnp.array, params), {}, tx)
    run = loop.run_search(
        search_step(model.apply, losses.cross_entropy(), tx, layers),
        search,
        loop.SearchRun(state, search.init(params)),
        batches,
        jax.random.key(0),
        vote_every=1,
        max_steps=100,
        stuck=lambda run: "",
        hooks=loop.Hooks(),
    )
    found = dj.scheme_of(layers, run.search)
    assert {name: nm.m for name, nm in found.items()} == GROUP_SIZES
    left = sum(math.prod(SHAPES[name]) * nm.n / nm.m for name, nm in found.items())
    left += math.prod(SHAPES["stem"]) + math.prod(SHAPES["each"])
    assert left <= 0.4 * sum(map(math.prod, SHAPES.values()))
    sparse = masked(params, found)
    for name, nm in found.items():
        kernel = np.moveaxis(np.asarray(sparse[name]), -2, -1).reshape(-1, nm.m)
        assert (np.count_nonzero(kernel, axis=1) == nm.n).all()


def test_paces_know_the_share_of_each_group_size():
    layers = find()
    factors = paces.domino_pace(layers, 0.5, macs_weight=0.0, erk_weight=1.0)
    wanted = erk(SHAPES, 0.5, ["stem", "each"])
    committed = {"halves": 4, "mix": 4, "eighths": 4, "pairs": 1, "head": 16}
    sparsity = {"halves": 0.5, "mix": 0.75, "eighths": 0.0, "pairs": 0.5, "head": 0.0}
    behind = {name: wanted[name] - sparsity[name] for name in committed}
    span = max(map(abs, behind.values()))
    assert factors(committed) == pytest.approx({n: b / span for n, b in behind.items()})


def test_export_of_mixed_m(tmp_path):
    layers = find()
    levels = {"halves": 2, "mix": 2, "eighths": 2, "pairs": 1, "head": 8}
    found = {name: NM(n, GROUP_SIZES[name]) for name, n in levels.items()}
    params = masked(weights(), found)
    inputs = np.random.default_rng(1).normal(size=(4, 4, 4, 3)).astype(np.float32)
    network = Network("mine:net", {}, dj.plain(apply, params), layers, found, inputs, False)
    document = write(network, tmp_path / "out", dtype="float16")
    entries = document["layers"]
    assert {name: (e["n"], e["m"], e["groups"]) for name, e in entries.items() if e["m"] > 1} == {
        "halves": (2, 8, 2),
        "mix": (2, 16, 1),
        "eighths": (2, 4, 8),
        "pairs": (1, 2, 16),
        "head": (8, 16, 1),
    }
    # 2:8, 2:16, 2:4 and 1:2 are 2:4 patterns; 8:16 is none.
    assert {name: e["pattern24"] for name, e in entries.items() if e["m"] > 1} == {
        **{"halves": True, "mix": True, "eighths": True, "pairs": True, "head": False}
    }
    assert entries["mix"]["why"] == ""
    assert entries["halves"]["why"] == "grouped convolution (2 groups)"
    assert exported.check(tmp_path / "out") == document

"""The layers of small hand-written networks, and the rules for them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from jax import lax

from domino_jax.core.canonical import Axes
from domino_jax.core.rules import flattened
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.layers import find_layers

F = jnp.float32
S = jax.ShapeDtypeStruct
IO = Axes((), (), (0,), (1,))
HWIO = Axes((), (0, 1), (2,), (3,))
STACKED = Axes((0,), (), (1,), (2,))


def floats(*shape):
    return S(shape, F)


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def by_name(layers):
    return {layer.name: layer for layer in layers}


def reasons(layers):
    return {layer.name: layer.reason for layer in layers}


IMAGE_NET = {
    "stem": floats(7, 7, 3, 64),
    "block": [{"a": floats(3, 3, 64, 32), "b": floats(1, 1, 32, 8)}],
    "fc": {"kernel": floats(8, 10), "bias": floats(10)},
    "deep": floats(3, 3, 1, 64),
}


def image_net(p, x):
    x = conv(conv(x, p["stem"], 2), p["deep"], 1, 64)
    x = conv(conv(x, p["block"][0]["a"], 2), p["block"][0]["b"])
    return x.mean(axis=(1, 2)) @ p["fc"]["kernel"] + p["fc"]["bias"][None]


IMAGES = floats(32, 224, 224, 3)


def test_a_network_by_hand():
    assert find_layers(image_net, IMAGE_NET, IMAGES, 8) == (
        made.layer(
            "stem", (7, 7, 3, 64), HWIO, 118_013_952, (), "input size 3 is no multiple of 8"
        ),
        made.layer(
            "deep", (3, 3, 1, 64), HWIO, 112 * 112 * 9 * 64, (), "depthwise", convolution_groups=64
        ),
        made.layer("block/0/a", (3, 3, 64, 32), HWIO, 56 * 56 * 9 * 64 * 32, (1, 2, 4, 8)),
        made.layer("block/0/b", (1, 1, 32, 8), HWIO, 56 * 56 * 32 * 8, (1, 2, 4, 8)),
        made.layer("fc/kernel", (8, 10), IO, 80, (1, 2, 4, 8)),
    )


def test_properties_of_a_layer():
    layer = find_layers(image_net, IMAGE_NET, IMAGES, 8)[2]
    assert (layer.path, layer.index, layer.size, layer.m) == ("block/0/a", None, 9 * 64 * 32, 8)
    slice_ = made.layer("a#b/c#3", (2, 5), STACKED, 10, (1, 2))
    assert (slice_.path, slice_.index, slice_.size, slice_.m) == ("a#b/c", 3, 10, 2)
    with pytest.raises(ValueError, match=r"stem: has no groups \(input size 3"):
        _ = find_layers(image_net, IMAGE_NET, IMAGES, 8)[0].m


def test_containers():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Net:
        first: object
        rest: list

    net = Net(floats(4, 8), [(floats(8, 4),), {"w": floats(4, 2)}])
    layers = find_layers(
        lambda p, x: x["a"] @ p.first @ p.rest[0][0] @ p.rest[1]["w"], net, {"a": floats(9, 4)}, 4
    )
    assert [layer.name for layer in layers] == ["first", "rest/0/0", "rest/1/w"]
    assert [layer.macs for layer in layers] == [32, 32, 8]


def test_numpy_arrays_of_any_dtype():
    params = {"w": np.ones((8, 4), np.float64), "h": np.ones((4, 4), np.float16)}
    x = np.ones((3, 8), np.uint8)
    layers = find_layers(
        lambda p, x: (x.astype(F) @ p["w"].astype(F)) @ p["h"].astype(F), params, x, 4
    )
    assert [layer.macs for layer in layers] == [32, 16]


def test_order_is_that_of_the_first_use():
    params = {"a": floats(4, 4), "b": floats(4, 4), "c": floats(4, 4)}

    def apply(p, x):
        return x @ p["c"] @ p["a"] @ p["b"] @ p["a"]

    layers = find_layers(apply, params, floats(1, 4), 4)
    assert [(layer.name, layer.macs) for layer in layers] == [("c", 16), ("a", 32), ("b", 16)]


def test_the_slices_of_what_a_scan_runs_over_go_pass_by_pass():
    params = {name: floats(2, 4, 4) for name in "qkab"} | {"in": floats(2, 3, 4, 4)}
    params |= {"all": floats(4, 4), "head": floats(4, 4)}

    def outer(x, w):
        x, _ = jax.lax.scan(lambda x, v: (x @ v, None), x, w[0])
        return x @ w[1], None

    def apply(p, x):
        def block(x, w):
            return x @ w[0] @ p["all"] @ w[1], None

        x, _ = jax.lax.scan(block, x, (p["q"], p["k"]))
        x, _ = jax.lax.scan(outer, x, (p["in"], p["a"]))
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, p["b"][1:])
        return x @ p["head"]

    layers = find_layers(apply, params, floats(1, 4), 4)
    assert [layer.name for layer in layers] == [
        *("q#0", "all", "k#0", "q#1", "k#1"),
        *("in#0", "in#1", "in#2", "a#0", "in#3", "in#4", "in#5", "a#1"),
        *("b#0", "b#1", "head"),
    ]


def test_a_scan_that_runs_backwards_meets_the_last_slice_first():
    params = {"w": floats(3, 4, 4), "v": floats(3, 4, 4)}

    def apply(p, x):
        def block(x, rows):
            return x @ rows[0] @ rows[1], None

        x, _ = jax.lax.scan(block, x, (p["w"], p["v"][::-1]), reverse=True)
        return x

    layers = find_layers(apply, params, floats(1, 4), 4)
    assert [layer.name for layer in layers] == ["w#2", "v#0", "w#1", "v#1", "w#0", "v#2"]


def test_a_product_without_inputs_does_not_set_the_order():
    def apply(p, x):
        scale = (jnp.ones((1, 4), F) @ p["b"]).max()
        return x @ p["a"] @ (p["b"] / scale)

    layers = find_layers(apply, {"a": floats(4, 4), "b": floats(4, 4)}, floats(1, 4), 4)
    assert [layer.name for layer in layers] == ["a", "b"]


def test_every_parameter_is_listed_once():
    params = {
        "used": floats(8, 8),
        "unused": floats(8, 8),
        "int": S((8, 8), jnp.int8),
        "added": floats(8, 8),
        "table": floats(100, 8),
        "tied": floats(100, 8),
        "left": floats(8, 8),
        "right": floats(8, 8),
        "max": floats(8, 8),
        "inverse": floats(8, 8),
        "sorted": floats(8, 8),
        "both": floats(8, 8),
        "back": floats(8, 8),
        "long": floats(8, 8),
        "returned": floats(8, 8),
        "bias": floats(8),
    }

    def apply(p, tokens):
        x = p["table"][tokens] + p["tied"][tokens] + p["added"][None, :7]
        x = x @ p["used"] @ p["both"] @ p["both"].T + p["bias"][None, None]
        x = x @ (p["left"] @ p["right"]) / p["max"].max() @ (1 / p["inverse"])
        x = x @ jnp.sort(p["sorted"]) @ jnp.sort(p["back"]) @ p["back"]
        x = lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ p["long"], x)
        x = x + p["int"].astype(F)[None, :7]
        return x @ p["tied"].T, p["returned"]

    layers = find_layers(apply, params, S((3, 7), jnp.int32), 8)
    assert [layer.name for layer in layers[:7]] == [
        *("used", "both", "inverse", "sorted", "back", "long", "tied")
    ]
    assert reasons(layers) == {
        "used": None,
        "both": "used along different input axes",
        "inverse": "goes into div",
        "back": "goes into sort",
        "long": "in a while loop",
        "tied": None,
        "added": "goes into add",
        "int": "int8, not floating",
        "left": "multiplied with another parameter",
        "max": "only in reduce_max",
        "returned": "only returned",
        "right": "multiplied with another parameter",
        "sorted": "goes into sort",
        "table": "only looked up",
        "unused": "not used",
    }
    found = by_name(layers)
    assert [found[n].macs for n in ("used", "both", "inverse", "sorted", "back", "long")] == [
        *(448, 896, 448, 448, 896, 448)
    ]
    assert found["tied"] == made.layer(
        "tied", (100, 8), Axes((), (), (1,), (0,)), 7 * 800, (1, 2, 4, 8)
    )
    assert found["both"].roles == IO
    for layer in layers[7:]:
        assert (layer.roles, layer.macs, layer.candidates) == (None, 0, ())


def test_stacked_layers():
    layers = find_layers(
        lambda w, x: lax.scan(lambda h, v: (h @ v, None), x, w)[0],
        floats(3, 8, 8),
        floats(2, 8),
        4,
    )
    assert layers == tuple(made.layer(f"#{i}", (8, 8), STACKED, 64, (1, 2, 4)) for i in range(3))


def test_slices_are_row_major_over_all_stack_axes():
    def apply(w, x):
        return x @ w[0, :, 2] + x @ w[1, :, 0] @ w[1, :, 0]

    layers = find_layers(apply, floats(2, 8, 3, 8), floats(1, 8), 4)
    assert {layer.roles for layer in layers} == {Axes((0, 2), (), (1,), (3,))}
    assert [(layer.name, layer.macs) for layer in layers if layer.macs] == [("#2", 64), ("#3", 128)]
    assert [layer.reason for layer in layers if not layer.macs] == ["not used"] * 4
    assert [layer.index for layer in layers] == [0, 1, 2, 4, 5, 3]


def test_an_unknown_index_shares_the_macs_out():
    def apply(w, x):
        return x["x"] @ w[x["i"][0]]

    inputs = {"x": floats(5, 8), "i": S((5,), jnp.int32)}
    layers = find_layers(apply, floats(3, 8, 4), inputs, 4)
    assert [layer.macs for layer in layers] == [11, 11, 10]


def test_a_stack_that_is_also_used_whole_is_one_layer():
    def apply(w, x):
        return x @ w[0], jnp.einsum("bi,sio->bso", x, w)

    (layer,) = find_layers(apply, floats(3, 8, 4), floats(1, 8), 4)
    assert layer == made.layer("", (3, 8, 4), Axes((), (), (1,), (0, 2)), 128, (1, 2, 4))


def test_attention_kernels():
    params = {
        "qkv": floats(3, 16, 4, 2),
        "heads": floats(16, 4, 2),
        "out": floats(4, 2, 16),
    }

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p["qkv"][i]) for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k))
        h = jnp.einsum("bhts,bshk->bthk", weights, v)
        return jnp.einsum("bthk,hkd->btd", h, p["out"]) @ p["heads"].reshape(16, 8)

    found = by_name(find_layers(apply, params, floats(2, 5, 16), 8))
    for i in range(3):
        assert found[f"qkv#{i}"].roles == Axes((0,), (), (1,), (2, 3))
        assert found[f"qkv#{i}"].macs == 5 * 128
    assert found["out"].roles == Axes((), (), (0, 1), (2,))
    assert found["heads"].roles == Axes((), (), (0,), (1, 2))
    assert all(layer.candidates for layer in found.values())


def test_weight_and_spectral_normalization():
    def apply(p, x):
        x = x @ (p["v"] * p["g"][None] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))
        u = jnp.ones((1, 8), F)
        sigma = jnp.linalg.norm(u @ p["s"] @ p["s"].T)
        return x @ (p["s"] / sigma)

    params = {"v": floats(8, 8), "g": floats(8), "s": floats(8, 8)}
    layers = find_layers(apply, params, floats(1, 8), 4)
    assert reasons(layers) == {"v": None, "s": None}
    assert [layer.roles for layer in layers] == [IO, IO]


def test_macs_against_the_cost_analysis_of_the_compiler():
    params = {"a": floats(3, 3, 8, 16), "b": floats(2, 2, 4, 8), "c": floats(8, 5)}

    def apply(p, x):
        valid = functools.partial(
            lax.conv_general_dilated,
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = valid(x, p["a"], (2, 2))
        x = valid(x, p["b"], (1, 1), rhs_dilation=(2, 2), feature_group_count=4)
        return lax.dot_general(x, p["c"], (((3,), (0,)), ((), ())))

    layers = find_layers(apply, params, floats(64, 17, 17, 8), 4)
    analysis = jax.jit(apply).lower(params, floats(1, 17, 17, 8)).cost_analysis()
    assert sum(layer.macs for layer in layers) == analysis["flops"] / 2


# Candidates and rules.


@pytest.mark.parametrize(
    ("m", "candidates"),
    [(2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (16, (1, 2, 4, 8, 16))],
)
def test_default_candidates(m, candidates):
    (layer,) = find_layers(lambda w, x: x @ w, floats(48, 4), floats(1, 48), m)
    assert layer.candidates == candidates


def found(rules=(), m=8, candidates=None):
    return by_name(find_layers(image_net, IMAGE_NET, IMAGES, m, rules, candidates=candidates))


def test_given_candidates():
    assert found(candidates=[2, 5, 8])["fc/kernel"].candidates == (2, 5, 8)


def test_the_first_rule_wins():
    layers = found([("a$", (2, 4)), ("fc", 2), ("block", "dense"), (".*", "flatten")])
    assert layers["block/0/a"].candidates == (2, 4)
    assert layers["fc/kernel"].candidates == (1, 2)
    assert layers["block/0/b"].reason == "dense by rule 'block'"
    assert layers["block/0/b"].candidates == ()
    flat = Axes((), (), (0, 1, 2), (3,))
    for name in ("stem", "deep"):
        assert layers[name].groups.along == flat
        assert layers[name].roles == HWIO
        assert (layers[name].candidates, layers[name].reason) == ((1, 2, 4, 8), None)


def test_flatten_puts_the_window_before_the_inputs():
    (layer,) = find_layers(
        lambda w, x: lax.conv_general_dilated(x, w, (1, 1), "SAME"),
        floats(16, 3, 5, 5),
        floats(1, 3, 9, 9),
        8,
        [("", "flatten")],
    )
    assert layer.groups.along == Axes((), (), (2, 3, 1), (0,))
    assert layer.roles == Axes((), (2, 3), (1,), (0,))


def test_flattened_groups_only_what_the_group_size_left_out():
    before = find_layers(image_net, IMAGE_NET, IMAGES, 8, [("fc", "dense")])
    after = by_name(flattened(before, 8))
    ruled = by_name(
        find_layers(image_net, IMAGE_NET, IMAGES, 8, [("fc", "dense"), ("stem", "flatten")])
    )
    assert after == ruled
    assert by_name(flattened(before, 8, (4, 8)))["stem"].candidates == (4, 8)
    assert flattened(before, 16) == before


def test_a_rule_reaches_one_slice_of_a_stack():
    def apply(w, x):
        return lax.scan(lambda h, v: (h @ v, None), x, w["blocks"])[0]

    params, x = {"blocks": floats(3, 8, 8)}, floats(2, 8)
    layers = find_layers(apply, params, x, 4, [("#1$", "dense"), ("blocks", (2, 4))])
    assert [layer.candidates for layer in layers] == [(2, 4), (), (2, 4)]
    assert layers[1].reason == "dense by rule '#1$'"
    with pytest.raises(ValueError, match=r"blocks#1: expected 'dense' for one slice of a stack"):
        find_layers(apply, params, x, 4, [("#1$", 2)])


def test_a_rule_leaves_what_is_left_out():
    params = {"w": floats(8, 8), "t": floats(9, 3)}
    layers = find_layers(lambda p, x: x @ p["w"], params, floats(1, 8), 4, [("", (1, 4))])
    assert reasons(layers) == {"w": None, "t": "not used"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("nothing", "dense")], "matches no layer"),
        ([("bias", "dense")], "matches no layer"),
        ([("(", "dense")], "not a regular expression"),
        ([("fc", "sparse")], "rule 'fc': expected 'dense', 'flatten', 'shrink', an M from 2 to 64"),
        ([("fc", None)], r"got None"),
        ([("fc", True)], r"got True"),
        ([("fc", 65)], r"got 65"),
        ([("fc", 1)], r"got 1"),
        ([("fc", ())], r"got \(\)"),
        ([("fc", (4, 2))], r"got \(4, 2\)"),
        ([("fc", (0, 2))], r"got \(0, 2\)"),
        ([("fc", (1, 2.0))], r"got \(1, 2.0\)"),
        ([("stem", (1, 4))], "'stem': stem: input size 3 is no multiple of 4"),
        ([("fc", 16)], "'fc': fc/kernel: input size 8 is no multiple of 16"),
        ([("deep", 2)], "'deep': deep: input size 1 is no multiple of 2"),
    ],
)
def test_wrong_rules(rules, message):
    with pytest.raises(ValueError, match=message):
        found(rules)


@pytest.mark.parametrize("m", [1, 65, 8.0, "8", True, None])
def test_wrong_group_sizes(m):
    with pytest.raises(ValueError, match="m: expected an int from 2 to 64, got"):
        found(m=m)


@pytest.mark.parametrize("candidates", [(), (1, 2), (8, 8), (4, 2, 8), (0, 8), (1.0, 8), "8", 8])
def test_wrong_candidates(candidates):
    with pytest.raises(ValueError, match="expected rising ints of 1 or more that end in 8, got"):
        found(candidates=candidates)


def test_no_layer_to_group():
    with pytest.raises(ValueError, match=r"grouped by m=7: stem \(input size 3 is no mul"):
        found(m=7)
    with pytest.raises(ValueError, match="it has no parameter of rank 2 or more"):
        find_layers(lambda b, x: x + b[None], floats(3), floats(1, 3), 4)


def test_a_vector_in_a_product_is_listed_and_stays_dense():
    params = {"flat": floats(8 * 16 + 16), "w": floats(16, 16), "head": floats(16), "b": floats(16)}

    def apply(p, x):
        x = x @ p["flat"][:128].reshape(8, 16) + p["flat"][None, 128:]
        return (x * p["b"][None]) @ (p["w"] * p["b"][None]) @ p["head"] + p["b"].sum()

    layers = find_layers(apply, params, floats(1, 8), 4)
    reason = "of one axis, which has no inputs and outputs"
    found = {spec.name: (spec.reason, spec.macs, spec.size) for spec in layers}
    assert found == {"w": (None, 256, 256), "flat": (reason, 128, 144), "head": (reason, 16, 16)}


@pytest.mark.parametrize("rules", [{"fc": "dense"}, [("fc",)], [None], None, "fc", 3])
def test_a_rule_is_a_pair(rules):
    what = "a rule" if isinstance(rules, list) else "a sequence of pairs"
    with pytest.raises(ValueError, match=rf"expected {what} \(regex, value\), got"):
        find_layers(image_net, IMAGE_NET, IMAGES, 4, rules)


def test_grouped_convolutions_are_seen_in_inner_functions_and_by_path():
    """Beside a plain convolution of the same shape."""

    def apply(params, x):
        def grouped(x):
            return conv(x, params["grouped"], groups=2)

        x = lax.cond(jnp.sum(x) > 0, jax.jit(grouped), grouped, x)
        return conv(x[..., :4], params["plain"])

    params = {"grouped": floats(3, 1, 4, 6), "plain": floats(3, 1, 4, 6)}
    kernels = find_kernels(apply, params, floats(1, 5, 5, 8))
    assert {k.name: k.convolution_groups for k in kernels} == {"grouped": 2, "plain": 1}

"""The byte language model: counts, causality, and PyTorch's own modules with the same weights."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from domino_jax import models
from domino_jax.core.layers import counted
from domino_jax.core.paths import leaves_by_path
from domino_jax.pytorch.layouts import tensors, to_torch
from domino_jax.trace.layers import find_layers

CLASSES, LENGTH, WIDTH, DEPTH, HEADS = 19, 12, 32, 2, 4


def _example(length=LENGTH, dtype=jnp.uint8):
    return jax.ShapeDtypeStruct((1, length), dtype)


def _small(**options):
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS} | options
    given = {"example": _example(), "classes": CLASSES, "seed": 0} | sizes
    return models.create("byte_lm", **given)


def _forward(model):
    return lambda params, x: model.apply(params, model.stats, x, train=False, key=None)[0]


def _tokens(batch=3, dtype=np.uint8, length=LENGTH):
    return np.random.default_rng(1).integers(0, CLASSES, (batch, length)).astype(dtype)


@pytest.fixture(scope="module")
def lively():
    """Params far from their fresh values, so that norms, biases and attention all matter."""
    model = _small()
    rng = np.random.default_rng(7)

    def draw(leaf):
        std = 0.3 if leaf.ndim == 1 else 2 / math.sqrt(leaf.shape[0])
        return leaf + jnp.asarray(std * rng.standard_normal(leaf.shape), jnp.float32)

    return model._replace(params=jax.tree.map(draw, model.params))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_layers_and_counts_by_hand(dtype):
    example = _example(128, dtype)
    model = models.create("byte_lm", example=example, classes=256, seed=0)
    layers = find_layers(_forward(model), model.params, example, 8)
    inside = {
        **dict.fromkeys([f"attention/{n}" for n in ("query", "key", "value", "out")], (128, 128)),
        **{"mlp/up": (128, 512), "mlp/down": (512, 128)},
    }
    wanted = {
        f"blocks/{i}/{name}/kernel": shape for i in range(4) for name, shape in inside.items()
    }
    wanted["head/kernel"] = (128, 256)
    kernels = counted(layers)
    assert {spec.name: spec.shape for spec in kernels} == wanted
    assert [spec.name for spec in kernels] == list(wanted)
    # No macs of attention's products of activations, which would make it more than T · weights.
    assert all(spec.macs == 128 * spec.size for spec in kernels)
    assert all(spec.roles.inputs == (0,) and spec.candidates == (1, 2, 4, 8) for spec in kernels)
    assert sum(spec.size for spec in kernels) == 4 * 12 * 128**2 + 128 * 256
    left_out = {spec.name: spec.reason for spec in layers if spec.roles is None}
    assert left_out == {
        "tokens/embedding": "only looked up",
        "positions/embedding": "goes into add",
    }
    small = 4 * (9 * 128 + 4 * 128) + 2 * 128  # biases and norms
    tables = (256 + 128) * 128
    total = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert total == 4 * 12 * 128**2 + 128 * 256 + small + tables


@pytest.mark.parametrize("place", [0, 5, LENGTH - 1])
def test_a_later_byte_changes_no_earlier_logits(lively, place):
    call = jax.jit(_forward(lively))
    tokens = _tokens()
    changed = tokens.copy()
    changed[:, place] = (changed[:, place] + 1) % CLASSES
    before, after = (np.asarray(call(lively.params, x)) for x in (tokens, changed))
    assert before.shape == (3, LENGTH, CLASSES)
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert np.all(np.abs(before[:, place:] - after[:, place:]).max(-1) > 1e-4)


def _torch_logits(model, tokens):
    """The same network of `nn.TransformerEncoderLayer`, from its definition in PyTorch alone."""
    torch = importlib.import_module("torch")
    nn = torch.nn
    one = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    axes = find_layers(_forward(model), model.params, one, 2)
    arrays = to_torch(leaves_by_path(model.params), tensors(model.params, {}, axes))
    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    renamed = {"norm1": "norm1", "norm2": "norm2", "mlp.up": "linear1", "mlp.down": "linear2"}
    renamed["attention.out"] = "self_attn.out_proj"
    x = found["tokens.weight"][torch.from_numpy(tokens).long()] + found["positions.weight"]
    for index in range(DEPTH):
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        ).eval()
        state = {
            f"{theirs}.{leaf}": found[f"blocks.{index}.{ours}.{leaf}"]
            for ours, theirs in renamed.items()
            for leaf in ("weight", "bias")
        }
        for leaf in ("weight", "bias"):
            parts = [
                found[f"blocks.{index}.attention.{n}.{leaf}"] for n in ("query", "key", "value")
            ]
            state[f"self_attn.in_proj_{leaf}"] = torch.cat(parts)
        layer.load_state_dict(state)
        with torch.no_grad():
            x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(LENGTH))
    x = nn.functional.layer_norm(x, (WIDTH,), found["norm.weight"], found["norm.bias"])
    return (x @ found["head.weight"].T).numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_logits_are_those_of_pytorchs_modules(lively, dtype):
    tokens = _tokens(dtype=dtype)
    expected = _torch_logits(lively, tokens)
    found = np.asarray(jax.jit(_forward(lively))(lively.params, tokens))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_bfloat16_computes_low_and_keeps_params_and_logits_float32(lively):
    low = _small(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype("float32")}
    wide = jax.jit(_forward(lively))(lively.params, _tokens())
    found = jax.jit(_forward(low))(lively.params, _tokens())
    assert found.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(found - wide)).max() < 0.1 * np.abs(np.asarray(wide)).max()
    equations = jax.make_jaxpr(_forward(low))(low.params, _tokens()).eqns
    products = [e.outvars[0].aval.dtype for e in equations if e.primitive.name == "dot_general"]
    assert products == [jnp.bfloat16] * (8 * DEPTH + 1)


def test_shorter_inputs_and_too_long_ones(lively):
    call = jax.jit(_forward(lively))
    whole, part = (call(lively.params, _tokens()[:, :length]) for length in (LENGTH, 5))
    np.testing.assert_allclose(part, whole[:, :5], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="expected at most 12 positions, got 13"):
        call(lively.params, _tokens(length=13))


def test_a_byte_without_an_entry_is_not_taken_for_another(lively):
    tokens = _tokens()
    tokens[0, 3] = CLASSES
    logits = np.asarray(jax.jit(_forward(lively))(lively.params, tokens))
    assert np.isnan(logits[0, 3:]).all()
    assert np.isfinite(logits[1:]).all()


def test_fresh_weights():
    params = _small(width=64, depth=8).params
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(params).items()}
    for path, std in {
        "tokens/embedding": 0.02,
        "positions/embedding": 0.02,
        "head/kernel": 0.02,
        "blocks/3/attention/query/kernel": 0.02,
        "blocks/3/mlp/up/kernel": 0.02,
        "blocks/7/attention/out/kernel": 0.005,
        "blocks/0/mlp/down/kernel": 0.005,
    }.items():
        assert abs(leaves[path].std() / std - 1) < 0.06, path
    for path, leaf in leaves.items():
        if leaf.ndim == 1:
            np.testing.assert_array_equal(leaf, path.endswith("scale"), err_msg=path)
    again = leaves_by_path(_small(width=64, depth=8).params)
    assert all(np.array_equal(leaf, again[path]) for path, leaf in leaves.items())
    other = leaves_by_path(_small(width=64, depth=8, seed=1).params)
    assert np.any(leaves["head/kernel"] != np.asarray(other["head/kernel"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30}, "width must be a multiple of the 4 heads, got 30"),
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"depth": 2.0}, r"depth must be a positive integer, got 2\.0"),
        ({"heads": -1}, "heads must be a positive integer, got -1"),
        ({"classes": 0}, "classes must be a positive integer, got 0"),
        ({"seed": -1}, "seed must be a non-negative integer, got -1"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"dtype": jnp.float32}, "dtype: expected one of float32, bfloat16"),
        ({"layers": 3}, "unexpected keyword argument 'layers'"),
        (
            {"example": jax.ShapeDtypeStruct((1, 8), jnp.float32)},
            r"takes one integer array \(1, positions\), got float32",
        ),
        ({"example": jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.uint8)}, r"got \(1, 8, 8, 3\)"),
        ({"example": {}}, "got nothing"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        _small(**options)
    assert "\n" not in str(caught.value)


def test_it_learns():
    """Each byte is the one before plus one: some steps bring the loss from log(19) to near 0."""
    import optax  # noqa: PLC0415

    from domino_jax.train.losses import cross_entropy  # noqa: PLC0415

    model, tx, loss = _small(), optax.adam(5e-3), cross_entropy()
    text = (np.arange(LENGTH + 1) + np.arange(16)[:, None]) % CLASSES
    batch = {
        "inputs": jnp.asarray(text[:, :-1], jnp.uint8),
        "labels": jnp.asarray(text[:, 1:], jnp.int32),
    }

    @jax.jit
    def step(params, state):
        def objective(params):
            outputs, _ = model.apply(params, {}, batch["inputs"], train=True, key=None)
            return loss(outputs, batch)

        value, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state, losses = model.params, tx.init(model.params), []
    with jax.numpy_dtype_promotion("standard"):  # as Adam needs it
        for _ in range(40):
            params, state, value = step(params, state)
            losses.append(float(value))
    assert abs(losses[0] - math.log(CLASSES)) < 0.1
    assert losses[-1] < 0.1

"""What the steps do with masks; SR-STE against the published method's trace."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from domino_jax.core import masked
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import NM
from domino_jax.trace.layers import find_layers
from domino_jax.train import loop, losses, masking, transforms
from domino_jax.train.step import init_state, trainer_step
from domino_jax.train.trainer import through_trainer

W = jnp.array([[1.0], [-4.0], [3.0], [2.0]])
PARAMS = {"w": W, "b": jnp.array([0.5])}
MASK = {"w": jnp.array([[False], [True], [True], [False]])}


def apply(params, x):
    return x @ params["w"] + params["b"][None]


def layers():
    return find_layers(apply, PARAMS, jnp.zeros((1, 4)), 4)


def listed(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1).tolist(), tree)


def test_masks_and_gradients():
    n = {"w": 2}
    assert listed(masked.make_masks(PARAMS, layers(), n)) == listed(MASK)
    x = jnp.array([[1.0, 2.0, 3.0, 4.0]])

    def through(mask):
        return jax.value_and_grad(lambda p: apply(mask(p, layers(), n), x).sum())(PARAMS)

    value, grads = through(masked.hard_mask)
    assert value == -8 + 9 + 0.5
    assert listed(grads) == {"w": [0, 2, 3, 0], "b": [1]}
    value, grads = through(masking.straight_through)
    assert value == -8 + 9 + 0.5
    assert listed(grads) == {"w": [1, 2, 3, 4], "b": [1]}


WRONG = [NM(2, 4), "2:4", 9, 0, 2.0, 2.5, np.nan, True, None]
WRONG += [np.array(value) for value in (0, 5, -1, 2.5, np.nan, True)]


@pytest.mark.parametrize("form", [lambda n: n, np.asarray, jnp.asarray])
@pytest.mark.parametrize("n", WRONG, ids=str)
def test_what_is_no_level_is_refused(n, form):
    if form is not jnp.asarray or isinstance(n, np.ndarray | int | float):
        n = form(n)
    with pytest.raises(ValueError, match=r"^w: expected the number of weights to keep of every 4,"):
        masked.make_masks(PARAMS, layers(), {"w": n})


def test_a_level_has_one_number_for_each_slice():
    with pytest.raises(ValueError, match=r"w: expected the number of weights .* got None"):
        masked.make_masks(PARAMS, layers(), {})
    with pytest.raises(ValueError, match=r"w: expected an n of the shape \(\), got \(2,\)"):
        masked.make_masks(PARAMS, layers(), {"w": np.array([1, 2])})


def test_a_traced_level_serves_all_values():
    masks_of = jax.jit(lambda n: masked.make_masks(PARAMS, layers(), {"w": n})["w"].sum())
    assert [int(masks_of(n)) for n in (1, 3, 4)] == [1, 3, 4]
    with pytest.raises(ValueError, match=r"of type float32"):
        masks_of(2.0)


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (W.T, r"w: expected the shape of its layer, \(4, 1\), got \(1, 4\)"),
        (W[:3], r"w: expected the shape of its layer, \(4, 1\), got \(3, 1\)"),
        (W[:, 0], r"w: expected the shape of its layer, \(4, 1\), got \(4,\)"),
        (jnp.arange(4)[:, None], "w: expected an array of floats, got dtype int32"),
        (max, r"w: expected an array of floats, got builtin.* eqx\.partition"),
    ],
)
def test_a_kernel_of_another_shape_is_refused(w, message):
    with pytest.raises(ValueError, match=message):
        masked.make_masks({"w": w}, layers(), {"w": 2})


def scanned(params, x):
    return jax.lax.scan(lambda x, w: (x @ w @ jnp.ones((1, 4)), None), x, params["w"])[0]


def test_a_stack_of_another_depth_is_refused():
    stacked = find_layers(scanned, {"w": jnp.ones((2, 4, 1))}, jnp.zeros((1, 4)), 4)
    masks = masked.make_masks({"w": jnp.ones((2, 4, 1))}, stacked, {"w": np.array([1, 3])})
    assert masks["w"].sum((1, 2)).tolist() == [1, 3]
    with pytest.raises(
        ValueError, match=r"w: expected 2 slices along its stack axes \(0,\), got 3"
    ):
        masked.make_masks({"w": jnp.ones((3, 4, 1))}, stacked, {"w": 1})


def test_scores_decide_instead_of_magnitudes():
    scores = jnp.array([[-1.0], [-4.0], [-3.0], [0.5]])
    for given in ({"w": scores}, lambda path, w: {"w": scores + 0 * w}[path]):
        masks = masked.make_masks(PARAMS, layers(), {"w": 2}, scores=given)
        assert listed(masks) == {"w": [True, False, False, True]}
        sparse = masked.hard_mask(PARAMS, layers(), {"w": 2}, scores=given)
        assert listed(sparse) == {"w": [1, 0, 0, 2], "b": [0.5]}
    wrong_kinds = r"kernel in the scores|expected floating scores|expected path -> a score"
    for wrong in ({"v": scores}, {"w": scores.T}, {"w": scores > 0}, 3, scores):
        with pytest.raises(ValueError, match=wrong_kinds):
            masked.make_masks(PARAMS, layers(), {"w": 2}, scores=wrong)


def test_masks_are_compiled_once_for_all_calls():
    calls = masked._compiled_masks
    before = calls._cache_size()
    for seed in range(3):
        params = {"w": jax.random.normal(jax.random.key(seed), (8, 5))}
        found = find_layers(lambda p, x: x @ p["w"], params, jnp.zeros((1, 8)), 4)
        masked.make_masks(params, found, {"w": np.int32(1 + seed)})
        masked.hard_mask(params, found, {"w": jnp.int32(1 + seed)})
    assert calls._cache_size() == before + 1


def test_leaves_that_are_no_arrays_stay_where_they_are():
    params = PARAMS | {"f": jnp.tanh, "name": "net"}
    for mask in (masked.hard_mask, masking.straight_through):
        sparse = mask(params, layers(), {"w": 2})
        assert (sparse["f"], sparse["name"]) == (jnp.tanh, "net")
        assert listed(sparse["w"]) == [0, -4, 3, 0]


# Our own derivative rule.


def energy(w):
    """Sums squares of all the weights, none of which is masked: the Hessian is 2 I."""
    return (masking.straight_through({"w": w}, layers(), {"w": 4})["w"] ** 2).sum()


def test_derivatives_of_straight_through():
    ones, eye = np.ones((4, 1)), 2 * np.eye(4)
    through = lambda w: masking.straight_through({"w": w}, layers(), {"w": 2})["w"]  # noqa: E731
    value, tangent = jax.jvp(through, (W,), (jnp.ones_like(W),))
    np.testing.assert_array_equal(value[:, 0], [0, -4, 3, 0])
    np.testing.assert_array_equal(tangent, ones)
    _, pull = jax.vjp(through, W)
    np.testing.assert_array_equal(pull(W)[0], W)
    np.testing.assert_array_equal(jax.grad(energy)(W), 2 * W)
    for hessian in (
        jax.hessian(energy),
        jax.jacrev(jax.grad(energy)),
        jax.jacfwd(jax.grad(energy)),
    ):
        np.testing.assert_array_equal(hessian(W).reshape(4, 4), eye)
    both = jnp.stack([W, 2 * W])
    np.testing.assert_array_equal(jax.vmap(jax.grad(energy))(both), 2 * both)
    np.testing.assert_array_equal(
        jax.vmap(jax.hessian(energy))(both).reshape(2, 4, 4), np.stack([eye, eye])
    )
    np.testing.assert_array_equal(jax.vmap(through)(both)[1, :, 0], [0, -8, 6, 0])


def test_a_kernel_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="unknown parameter 'w'; nearest: "):
        masked.make_masks({"b": PARAMS["b"]}, layers(), {"w": 1})


def test_survivors_decay_at_their_pace_on_every_third_step():
    tx = transforms.survivor_decay(layers(), lambda step: 0.5, every=3)
    state, zero = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
    seen = []
    for _ in range(4):
        updates, state = tx.update(zero, state, PARAMS, masks=MASK, pace={"w": jnp.float32(-2)})
        seen.append(listed(updates)["w"])
    assert seen == [[0, 4, -3, 0], [0] * 4, [0] * 4, [0, 4, -3, 0]]
    with pytest.raises(ValueError, match="every"):
        transforms.survivor_decay(layers(), 0.1, every=0)


def test_pace_of_a_stack_goes_by_slice():
    params = {"w": jnp.ones((2, 4, 1))}
    stacked = find_layers(
        lambda p, x: jax.lax.scan(lambda x, w: (x @ w @ jnp.ones((1, 4)), None), x, p["w"])[0],
        params,
        jnp.zeros((1, 4)),
        4,
    )
    tx = transforms.survivor_decay(stacked, 1.0, every=1)
    masks = {"w": jnp.ones((2, 4, 1), bool)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params, masks=masks, pace={"w": jnp.arange(2.0)})
    assert listed(updates)["w"] == [0] * 4 + [1] * 4


def test_sr_ste_decays_the_others():
    tx = transforms.sr_ste(0.5)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(ones, tx.init(PARAMS), PARAMS, masks=MASK)
    assert listed(updates) == {"w": [1.5, 1, 1, 2], "b": [1]}
    with pytest.raises(ValueError, match="needs the params"):
        tx.update(ones, tx.init(PARAMS), masks=MASK)


@pytest.fixture
def loose_promotion():
    """Optax's own bias correction mixes float and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("loose_promotion")
def test_sr_ste_before_adam_and_beside_it():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    before = transforms.sr_ste_adamw(1.0, 0.5, 0.0)
    updates, _ = before.update(zero, before.init(PARAMS), PARAMS, masks=MASK)
    # Adam rescales the term to one learning rate.
    np.testing.assert_allclose(updates["w"][:, 0], [-1, 0, 0, -1], rtol=0, atol=1e-4)
    beside = transforms.sr_ste_adamw_decoupled(1.0, 0.5, 0.25)
    updates, _ = beside.update(zero, beside.init(PARAMS), PARAMS, masks=MASK)
    np.testing.assert_allclose(updates["w"][:, 0], [-0.75, 1.0, -0.75, -1.5], rtol=0, atol=1e-4)


@pytest.mark.usefixtures("loose_promotion")
def test_without_masks_the_adamw_forms_are_adamw():
    grads = jax.tree.map(lambda w: 0.1 * w, PARAMS)
    plain = optax.adamw(0.1, weight_decay=0.25)
    expected, _ = plain.update(grads, plain.init(PARAMS), PARAMS)
    for make in (transforms.sr_ste_adamw, transforms.sr_ste_adamw_decoupled):
        tx = make(0.1, 0.5, 0.25)
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, masks={})
        jax.tree.map(np.testing.assert_allclose, updates, expected)


@pytest.mark.usefixtures("loose_promotion")
@pytest.mark.parametrize("inner", [optax.adamw(0.1, weight_decay=0.5), optax.sgd(0.1, 0.9)])
def test_fixed_masks_leave_the_rest_alone(inner):
    tx = transforms.fixed_masks(inner)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params, masks=MASK)
        params = optax.apply_updates(params, updates)
    changed = np.asarray(params["w"] != W)
    assert np.array_equal(changed, MASK["w"])
    for leaf in jax.tree.leaves(state):
        if leaf.shape == W.shape:
            assert not np.asarray(leaf)[~np.asarray(MASK["w"])].any()


def test_reference_sr_ste_number_for_number():
    arrays, meta = golden.load("sparse_training_trace")
    with jax.enable_x64(True):
        net, params = golden.make_apply(meta), golden.params_of(arrays, "init")
        found = find_layers(net, params, jnp.zeros((1, 10, 10, 8)), 8)
        paths = golden.paths(meta)
        scheme = dict(zip(paths, (NM(*nm) for nm in meta["scheme"].values()), strict=True))
        n = n_by_path(scheme, found)
        tx = optax.chain(
            transforms.sr_ste(meta["srste_decay"]),
            optax.add_decayed_weights(meta["weight_decay"]),
            optax.sgd(meta["lr"], meta["momentum"]),
        )
        model = lambda p, stats, x, *, train, key: (net(p, x), stats)  # noqa: E731
        batches, seen = golden.batches(arrays, meta), []

        first = next(golden.batches(arrays, meta))
        masks = masked.make_masks(params, found, n)
        grads = jax.grad(lambda p: losses.cross_entropy()(net(p, first["inputs"]), first))(
            masked.apply_masks(params, masks)
        )
        ste = transforms.sr_ste(meta["srste_decay"])
        grads, _ = ste.update(grads, ste.init(params), params, masks=masks)
        for ours, theirs in zip(
            jax.tree.leaves(grads), jax.tree.leaves(golden.params_of(arrays, "grad0")), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)

        state = loop.run_train(
            trainer_step(model, losses.cross_entropy(), through_trainer(tx, found)),
            init_state(params, {}, tx),
            n,
            batches,
            jax.random.key(0),
            steps=meta["steps"],
            hooks=loop.Hooks(log=lambda step, loss, _: seen.append(loss), log_every=1),
        )
        np.testing.assert_allclose(seen, arrays["losses"], rtol=0, atol=1e-9)
        final = golden.params_of(arrays, "final")
        for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(final), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        sparse = masked.hard_mask(state.params, found, n)
        for path, name in zip(paths, meta["scheme"], strict=True):
            ours = (
                sparse["fc"]["kernel"] if name == "Linear0" else sparse["convs"][path[6]]["kernel"]
            )
            theirs = arrays[f"masked/{name}"]
            np.testing.assert_allclose(golden.torch_layout(path, ours), theirs, rtol=0, atol=1e-9)

"""RegNetX: torchvision's names, grouped convolutions and their groups of M, a step of the search.

Against torchvision's logits: test_torchvision.py; sizes: test_network_counts.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_state
from flax import nnx

from domino_jax import domino, find_layers, models
from domino_jax.core.paths import leaves_by_path
from domino_jax.models import regnet
from domino_jax.models.initial import fill
from domino_jax.train import losses
from domino_jax.train.step import init_state, search_step
from domino_jax.train.transforms import survivor_decay, survivors

DIGESTS = {  # of torchvision 0.28.0
    "regnet_x_400mf": "a0716cff8eed709d",
    "regnet_x_800mf": "2f9c207dbdac036d",
    "regnet_x_1_6gf": "ca36bf1cd20cfcfc",
    "regnet_x_3_2gf": "fdbb0814dab9ac2f",
}
SMALL = regnet.Form((1, 2), (16, 24), 8)


def _shapes(form, classes=1000):
    return models.from_nnx(nnx.eval_shape(lambda: regnet.RegNet(form, 3, classes)))


def _small():
    model = _shapes(SMALL, 5)
    return model._replace(params=fill(model.params, 0), stats=fill(model.stats, 0))


def _layers(model, m, size=32):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def forward(weights, inputs):
        return model.apply(*weights, inputs, train=False, key=None)[0]

    found = find_layers(forward, (model.params, model.stats), images, m)
    return {spec.name.removeprefix("0/"): spec for spec in found}


@pytest.mark.parametrize("name", DIGESTS)
def test_every_name_and_shape_is_torchvisions(name):
    model = _shapes(getattr(regnet, name).args[0])
    assert torch_state.digest(model, 32) == DIGESTS[name]


def test_paths_and_shapes_by_hand():
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(_shapes(SMALL, 5).params).items()}
    assert shapes["stem/0/kernel"] == (3, 3, 3, 32)
    block = "trunk_output/block2/block2-0"
    assert shapes[f"{block}/proj/0/kernel"] == (1, 1, 16, 24)
    assert shapes[f"{block}/f/a/0/kernel"] == (1, 1, 16, 24)
    assert shapes[f"{block}/f/b/0/kernel"] == (3, 3, 8, 24)
    assert shapes[f"{block}/f/c/1/scale"] == (24,)
    assert "trunk_output/block2/block2-1/proj/0/kernel" not in shapes
    assert shapes["fc/kernel"] == (24, 5)


def test_blocks_run_in_the_order_of_their_numbers():
    """Of more than ten blocks the names' own order is another."""
    layers = [
        name for name in _layers(_shapes(regnet.regnet_x_400mf.args[0]), 4) if "/f/a/" in name
    ]
    numbers = [name.split("/")[2].removeprefix("block4-") for name in layers[-12:]]
    assert numbers == [str(number) for number in range(12)]


def test_a_grouped_convolution_sees_the_channels_of_its_group_alone():
    """24 channels in groups of 8: M = 8 fits, 16 does not; its products are a third."""
    name = "trunk_output/block2/block2-1/f/b/0/kernel"
    spec = _layers(_shapes(SMALL, 5), 8)[name]
    assert (spec.shape, spec.candidates, spec.roles.inputs) == ((3, 3, 8, 24), (1, 2, 4, 8), (2,))
    assert spec.macs == 4 * 4 * 9 * 8 * 24
    spec = _layers(_shapes(SMALL, 5), 16)[name]
    assert spec.candidates == ()
    assert spec.reason.startswith("input size 8 is no multiple of 16")


@pytest.mark.parametrize(
    ("name", "m", "dense"),
    [
        ("regnet_x_400mf", 16, 0),
        ("regnet_x_1_6gf", 8, 0),
        ("regnet_x_1_6gf", 16, 18),  # all its 3x3: 24 channels a group
        ("regnet_x_3_2gf", 16, 0),
        ("regnet_x_3_2gf", 32, 25),  # 48 channels a group
    ],
)
def test_layers_that_stay_dense_say_why(name, m, dense):
    form = getattr(regnet, name).args[0]
    layers = _layers(_shapes(form), m)
    stuck = [spec for path, spec in layers.items() if "/f/b/" in path and not spec.candidates]
    assert len(stuck) == dense
    start = f"input size {form.group_width} is no multiple of {m}"
    assert all(spec.reason.startswith(start) for spec in stuck)
    assert layers["stem/0/kernel"].reason.startswith(f"input size 3 is no multiple of {m}")


def _search_step(model, m, size, budget):
    """Takes one step of a search and a vote; returns layers and params."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def forward(params, inputs):
        return model.apply(params, model.stats, inputs, train=False, key=None)[0]

    layers = find_layers(forward, model.params, images, m)
    search = domino(layers, budget)
    tx = optax.chain(survivors(), survivor_decay(layers, 1e-3), optax.sgd(0.05))
    before = jax.tree.map(np.array, model.params)  # the step takes its arguments' memory
    state = init_state(model.params, model.stats, tx)
    found = search.init(state.params)
    found = found._replace(n={path: jnp.ones_like(n) for path, n in found.n.items()})
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(4, size, size, 3)).astype(np.float32),
        "labels": np.arange(4, dtype=np.int32),
    }
    step = search_step(model.apply, losses.cross_entropy(), tx, layers)
    state, loss = step(state, {"n": found.n, "pace": found.pace}, batch, jax.random.key(0))
    assert np.isfinite(loss)
    return layers, before, state.params


def _require_groups_kept(layers, before, after, m):
    """At n = 1 one weight of each M along the inputs of a 3x3's group has moved, no other."""
    grouped = [spec for spec in layers if "/f/b/" in spec.name]
    assert grouped
    for spec in grouped:
        old, new = (np.asarray(leaves_by_path(tree)[spec.path]) for tree in (before, after))
        moved = (old != new).reshape(3, 3, -1, m, old.shape[-1]).sum(3)
        assert moved.max() == 1, spec.name


def test_a_step_of_the_search():
    _require_groups_kept(*_search_step(_small(), 8, 16, 0.6), 8)


@pytest.mark.slow
def test_a_step_of_the_search_of_400mf():
    example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.create("regnet_x_400mf", example=example, classes=4, seed=0)
    _require_groups_kept(*_search_step(model, 16, 32, 0.3), 16)


def test_a_network_of_one_channel_in_bfloat16():
    example = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    model = models.create("regnet_x_400mf", example=example, classes=3, seed=0, dtype="bfloat16")
    images = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)
    logits = jax.eval_shape(
        lambda p, s, x: model.apply(p, s, x, train=True, key=None)[0], *model[1:], images
    )
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)

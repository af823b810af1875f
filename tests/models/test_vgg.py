"""VGG for CIFAR: torchvision's numbering, one position left at 32x32; what is refused.

Against torchvision's logits: test_torchvision.py, and PyTorch's own layers: test_networks.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from traced import equations

from domino_jax import models
from domino_jax.core.paths import leaves_by_path
from domino_jax.models import vgg

VGG16 = (2, 2, 3, 3, 3)


def _shapes(depths):
    return models.from_nnx(nnx.eval_shape(lambda: vgg.VGG(depths, 3, 7)))


def test_numbers_are_torchvisions():
    """Convolution, norm and ReLU are three members, a max-pool is one (`vgg16_bn().features`)."""
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(_shapes(VGG16).params).items()}
    kernels = [int(path.split("/")[1]) for path, s in shapes.items() if len(s) == 4]
    assert sorted(kernels) == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert shapes["features/0/kernel"] == (3, 3, 3, 64)
    assert shapes["features/0/bias"] == shapes["features/1/scale"] == (64,)
    assert shapes["features/40/kernel"] == (3, 3, 512, 512)
    assert (shapes["classifier/kernel"], shapes["classifier/bias"]) == ((512, 7), (7,))


def test_steps_run_in_the_order_of_their_numbers():
    """The first convolution of each stage sees the last one's channels; pools halve the image."""
    model = _shapes((1, 1, 1, 1, 1))
    images = jax.ShapeDtypeStruct((2, 33, 40, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x, train=False, key=None)[0])(
        model.params, model.stats, images
    )
    shapes = [
        eqn.outvars[0].aval.shape
        for eqn in equations(jaxpr)
        if eqn.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    expected = [(33, 40, 64), (16, 20, 128), (8, 10, 256), (4, 5, 512), (2, 2, 512)]
    assert shapes == [*((2, *shape) for shape in expected), (2, 7)]


def test_biases_are_drawn_as_pytorchs():
    example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.create("vgg16_cifar", example=example, classes=4, seed=0)
    biases = np.asarray(model.params["features"][0]["bias"])
    assert 0.15 < np.abs(biases).max() <= 1 / np.sqrt(27)


def test_small_images_are_refused():
    example = jax.ShapeDtypeStruct((1, 32, 31, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"here at least 32 by 32, got \(1, 32, 31, 3\)"):
        models.create("vgg19_cifar", example=example, classes=4, seed=0)

import jax
import jax.numpy as jnp
import pytest

from domino_jax.core import compiling


@pytest.fixture(autouse=True)
def asked_anew():
    compiling._without_ynnpack.cache_clear()
    yield
    compiling._without_ynnpack.cache_clear()


IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def convolutions_of_ynnpack(options):
    """Counts them in the compiled gradient of a convolution."""
    images, kernel = jnp.zeros((8, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))

    def loss(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=numbers
        ).sum()

    text = jax.jit(jax.grad(loss), compiler_options=options).lower(kernel).compile().as_text()
    bodies = text.split("\n\n")
    return sum("convolution(" in body and "ENTRY" not in body for body in bodies)


def test_convolutions_stay_with_eigen():
    if not convolutions_of_ynnpack(None):
        pytest.skip("this XLA gives no convolutions to YNNPACK")
    assert convolutions_of_ynnpack(compiling.options(IMAGES)) == 0


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "_YNNPACK", "xla_cpu_no_such_option")
    assert compiling.options(IMAGES) is None


def test_other_devices_get_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.options(IMAGES) is None


@pytest.mark.parametrize("shape", [(1, 28, 28, 1), (1, 256), (1, 4096, 8), ()])
def test_other_inputs_and_small_images_get_none(shape):
    assert compiling.options(jax.ShapeDtypeStruct(shape, jnp.float32)) is None

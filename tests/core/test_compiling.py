import jax
import jax.numpy as jnp
import pytest

from domino_jax.core import compiling


@pytest.fixture(autouse=True)
def asked_anew():
    compiling.options.cache_clear()
    yield
    compiling.options.cache_clear()


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
    assert convolutions_of_ynnpack(compiling.options()) == 0


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "_YNNPACK", "xla_cpu_no_such_option")
    assert compiling.options() is None


def test_other_devices_get_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.options() is None

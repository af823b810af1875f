"""One table of networks: each entry can be made, and so can one from outside."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from domino_jax import models
from domino_jax.deploy.resnet_forms import FORMS
from domino_jax.models import byte_lm, convolutional, vit

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
TEXT = jax.ShapeDtypeStruct((1, 8), jnp.int32)


@pytest.mark.parametrize("name", sorted(set(models.NETWORKS) - {"causal_lm"}))
def test_every_entry_can_be_made(name, monkeypatch):
    """Abstractly: the weights are shapes alone; `causal_lm` needs a folder (test_decoder.py)."""
    for module in (convolutional, vit, byte_lm):
        monkeypatch.setattr(module, "fill", lambda shapes, *draws: shapes)
    example = TEXT if name == "byte_lm" else IMAGE
    model = models.factory(name)(example=example, classes=7, seed=0)
    assert isinstance(model, models.Model)
    two = jax.ShapeDtypeStruct((2, *example.shape[1:]), example.dtype)

    def forward(params, stats, inputs):
        return model.apply(params, stats, inputs, train=False, key=None)[0]

    outputs = jax.eval_shape(forward, model.params, model.stats, two)
    assert outputs.shape == ((2, 8, 7) if name == "byte_lm" else (2, 7))


def test_a_residual_network_is_one_line_of_the_forms():
    assert {name for name, at in models.NETWORKS.items() if ".resnet:" in at} == set(FORMS)
    assert all(models.factory(name).args == (form,) for name, form in FORMS.items())


def test_the_forms_bring_no_pytorch():
    code = "import sys, domino_jax.models.resnet; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_of_ones_own_by_package_and_function(tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "nets.py").write_text(
        "import jax.numpy as jnp\n"
        "from domino_jax.models import plain\n"
        "def line(*, example, classes, seed):\n"
        "    w = jnp.ones((example.shape[-1], classes))\n"
        "    return plain(lambda params, x: x @ params['w'], {'w': w})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    example = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    model = models.create("outside.nets:line", example=example, classes=2, seed=0)
    outputs, _ = model.apply(model.params, {}, jnp.ones((4, 3)), train=True, key=None)
    assert outputs.tolist() == [[3.0, 3.0]] * 4
    with pytest.raises(ValueError, match="'lime'; nearest: line"):
        models.create("outside.nets:lime", example=example, classes=2, seed=0)

"""GoogLeNet on ImageNet, one weight in four kept.

    python search.py --config=configs/googlenet.py
    python train.py --config=configs/googlenet.py

No row of the paper's tables. Two branches of 24 inputs cannot be grouped by 16: with shrink_m
they are by 8.

Not run here: needs ImageNet and 8 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16), and the search; from a dense
network: --config.init=googlenet.pth --config.model.transform_input=True (torchvision's file
wants it) or any checkpoint; training one takes another 6.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "googlenet"
    config.search.update(budget=0.25, shrink_m=True)
    return config

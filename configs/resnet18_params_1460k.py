"""ResNet-18 on ImageNet, 1.46 M of 11.68 M weights kept.

    python search.py --config=configs/resnet18_params_1460k.py
    python train.py --config=configs/resnet18_params_1460k.py

Paper: dense 69.8; 2:16 everywhere 66.65; mixed N:16 68.76.

SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

Not run here: needs ImageNet and 9 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16), and 2 to 3 for the search as
the paper says; from a dense network: --config.init=resnet.pth or any checkpoint; training one
takes another 7.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "resnet18"
    config.search.budget = 1.46e6 / 11_678_912
    return config

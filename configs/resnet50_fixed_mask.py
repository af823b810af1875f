"""ResNet-50 on ImageNet, 87.5 % of the weights removed, masks that never change (ASP).

    python search.py --config=configs/resnet50_fixed_mask.py
    python train.py --config=configs/resnet50_fixed_mask.py

Paper: dense 76.1; uniform 73.3; mixed 74.9. Uniform: --config.search.method=uniform
--config.search.budget=0.126 (2:16, with the stem dense 12.53 %).

Batch norm is global, that of the published 8-GPU script per GPU.

Not run here: needs ImageNet and 21 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16), and 2 to 3 for the search as
the paper says; from a dense network: --config.init=resnet.pth or any checkpoint; training one
takes another 16.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.search.budget = 0.125
    config.train.method = "fixed"
    return config

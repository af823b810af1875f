"""ResNet-50 on ImageNet, 3.2 M of 25.5 M weights kept.

    python search.py --config=configs/resnet50_params_3200k.py
    python train.py --config=configs/resnet50_params_3200k.py

Paper: dense 76.1; 2:16 everywhere 74.4; mixed N:16 75.7.

SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

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
    config.search.budget = 3.2e6 / 25_502_912
    return config

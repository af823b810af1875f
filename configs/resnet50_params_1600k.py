"""ResNet-50 on ImageNet, 1.6 M of 25.5 M weights kept, N of 32.

    python search.py --config=configs/resnet50_params_1600k.py
    python train.py --config=configs/resnet50_params_1600k.py

Paper: dense 76.1; 1:16 everywhere 70.7, 2:32 71.5; mixed N:32 73.5.

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
    config.search.update(m=32, budget=1.6e6 / 25_502_912)
    return config

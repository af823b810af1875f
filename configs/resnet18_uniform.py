"""ResNet-18 on ImageNet, 2:16 in every layer: the baseline.

    python search.py --config=configs/resnet18_uniform.py
    python train.py --config=configs/resnet18_uniform.py

Paper: 66.65 (dense 69.8), 1.46 M weights, 227 M MACs. It keeps 1,468,096 weights (12.57 %) and
330 M MACs with the stem dense; grouped along its flattened window and inputs as well
(--config.search.rules="(('^conv1/kernel$','flatten'),)") 1,459,968 and 228 M.

SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

Not run here: needs ImageNet and 9 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16); from a dense network:
--config.init=resnet.pth or any checkpoint; training one takes another 7.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "resnet18"
    config.search.update(method="uniform", budget=0.126)
    return config

"""ResNet-50 on ImageNet, 2:16 in every layer: the baseline.

    python search.py --config=configs/resnet50_uniform.py
    python train.py --config=configs/resnet50_uniform.py

Paper: 74.4 (dense 76.1) with 3.2 M weights or 511 M MACs; 4:16 76.5
(--config.search.budget=0.251), 1:16 70.7 (--config.search.budget=0.063), 2:32 71.5
(--config.search.m=32 with the latter). It keeps 3,196,096 weights (12.53 %) and 614 M MACs with
the stem dense; grouped along its flattened window and inputs as well
(--config.search.rules="(('^conv1/kernel$','flatten'),)") 3,187,968 and 513 M.

SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

Not run here: needs ImageNet and 21 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16); from a dense network:
--config.init=resnet.pth or any checkpoint; training one takes another 16.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.search.update(method="uniform", budget=0.126)
    return config

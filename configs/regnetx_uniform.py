"""RegNetX-3.2GF on ImageNet, 2:16 in every layer: the baseline.

    python search.py --config=configs/regnetx_uniform.py
    python train.py --config=configs/regnetx_uniform.py

Paper: 75.2 (dense 78.2) with 400 M MACs; it keeps 397.3 M of 3,177 M (12.51 %).

SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

Not run here: needs ImageNet and 16 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16); from a dense network:
--config.init=regnet.pth or any checkpoint; training one takes another 12.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "regnet_x_3_2gf"
    config.search.update(
        method="uniform", objective="macs", budget=0.126, rules=(("^stem/0/kernel$", "flatten"),)
    )
    return config

"""The paper's ResNet-50 on ImageNet with 80 % of the weights removed: every key at its default.

    python search.py --config=configs/default.py
    python train.py --config=configs/default.py

Paper: dense 76.1; 4:16 everywhere 76.5 with 6.4 M weights; mixed N:16 76.7 with 5.0 M weights
(20 % of 25.5 M are 5.1 M; the published scheme keeps 4.9 M).
SR-STE's lambda is 5e-4 over the whole batch; the published 8-GPU script adds it on each GPU, 4e-3
in effect (--config.train.sr_ste=4e-3). Batch norm is global, theirs per GPU.

Not run here: needs ImageNet and 21 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16), and 2 to 3 for the search as the
paper says; from a dense network: --config.init=resnet.pth or any checkpoint; training one takes
another 16.
All keys are described in docs/settings.md; each can be set on the command line, for
instance `--config.search.budget=0.125`.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the defaults."""
    return defaults()

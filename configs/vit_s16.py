"""ViT-S/16 on ImageNet with AdamW, one weight in four kept.

    python search.py --config=configs/vit_s16.py
    python train.py --config=configs/vit_s16.py

No row of the paper's tables. The packed query, key and value projection of each block has one
N:M.

The search steps by SGD, as for every network, at a larger penalty than the default; not tuned.
SR-STE's lambda stands beside the weight decay and is ten times as large, as in the paper.

Not run here: needs ImageNet and 22 GPU-hours to fine-tune (estimated: 6 x MACs x images at a
sustained 50 TFLOP/s, an A100 with --config.model.dtype=bfloat16), and the search; from a dense
network: --config.init with a checkpoint or an export of ours (torchvision has no ViT-S); training
one takes another 16.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "vit_s16"
    config.dense.update(
        optimizer="adamw", lr=1e-3, weight_decay=0.1, warmup_epochs=10.0, batch=1024, epochs=90.0
    )
    config.search.update(budget=0.25, penalty=1.0)
    config.train.update(
        optimizer="adamw_decoupled", lr=1e-4, weight_decay=0.05, sr_ste=0.5, batch=1024
    )
    return config

"""ResNet-56 (the paper's, of bottlenecks) on CIFAR-100, 0.21 M of 0.88 M weights kept.

    python search.py --config=configs/resnet56_params_210k.py
    python train.py --config=configs/resnet56_params_210k.py

Paper: dense 74.8; 4:16 everywhere 72.33; mixed N:16 74.31. The other CIFAR-100 configs start
from this one. The paper counts 0.85 M weights, those of the convolutions; 0.21 M are 25 % of
either count. Learning rate and epochs of the dense network are ours: the paper does not say.

Not run here: needs CIFAR-100 and about 2 GPU-hours (estimated: 390 steps an epoch, 30 steps a
second, 300 epochs of dense training and 120 of fine-tuning).
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "resnet56_bottleneck"
    config.data.name = "cifar100"
    config.dense.update(epochs=300.0, batch=128, weight_decay=5e-4)
    config.search.budget = 0.25
    config.train.update(batch=128, weight_decay=5e-4)
    return config

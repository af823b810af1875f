"""ResNet-56 (the paper's, of bottlenecks) on CIFAR-100, 0.21 M of 0.88 M weights kept.

    python search.py --config=configs/resnet56_params_210k.py
    python train.py --config=configs/resnet56_params_210k.py

Paper: dense 74.8; 4:16 everywhere 72.33; mixed N:16 74.31. The other CIFAR-100 configs start
from this one. The paper counts the 853,936 weights of the convolutions; these budgets bound all
879,536, the last layer's 25,600 included. The stem, 0.35 % of the MACs, stays dense. Learning rate,
epochs and batch of the dense network, and batch and weight decay of the fine-tuning, are ours: the
paper gives those of ImageNet only.

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
    config.search.budget = 0.21e6 / 879_536
    config.train.update(batch=128, weight_decay=5e-4)
    return config

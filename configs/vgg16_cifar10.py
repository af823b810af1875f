"""VGG-16 with batch norm on CIFAR-10, one weight in eight kept.

    python search.py --config=configs/vgg16_cifar10.py
    python train.py --config=configs/vgg16_cifar10.py

No row of the paper's tables.

Not run here: needs CIFAR-10 and about an hour on a GPU (estimated: 390 steps an epoch, 40 steps
a second, 320 epochs).
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.model.name = "vgg16_cifar"
    config.data.name = "cifar10"
    config.dense.update(epochs=200.0, batch=128, lr=0.05, weight_decay=5e-4)
    config.search.budget = 0.125
    config.train.update(batch=128, weight_decay=5e-4)
    return config

"""ResNet-56 on CIFAR-100, 0.11 M of 0.88 M weights kept.

    python search.py --config=configs/resnet56_params_110k.py
    python train.py --config=configs/resnet56_params_110k.py

Paper: dense 74.8; 2:16 everywhere 71.08; mixed N:16 73.26.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_params_210k


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_params_210k.get_config()
    config.search.budget = 0.11e6 / 879_536
    return config

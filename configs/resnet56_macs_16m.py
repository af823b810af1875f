"""ResNet-56 on CIFAR-100, 16 M of 127.3 M multiply-adds kept.

    python search.py --config=configs/resnet56_macs_16m.py
    python train.py --config=configs/resnet56_macs_16m.py

Paper: dense 74.8; 2:16 everywhere 71.08; mixed N:16 72.79.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_params_210k


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_params_210k.get_config()
    config.search.update(objective="macs", budget=16e6 / 127_345_664)
    return config

"""ResNet-56 on CIFAR-100, 0.11 M of 0.88 M weights kept, all layers at one pace.

    python search.py --config=configs/resnet56_params_110k_constant_pace.py
    python train.py --config=configs/resnet56_params_110k_constant_pace.py

Paper, without a pace per layer: 72.95; with it: resnet56_params_110k.py.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_params_110k


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_params_110k.get_config()
    config.search.pace = "constant"
    return config

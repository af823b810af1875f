"""ResNet-56 on CIFAR-100, 32 M of 127.3 M multiply-adds kept, all layers at one pace.

    python search.py --config=configs/resnet56_macs_32m_constant_pace.py
    python train.py --config=configs/resnet56_macs_32m_constant_pace.py

Paper, without a pace per layer: 73.71; with it: resnet56_macs_32m.py.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_macs_32m


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_macs_32m.get_config()
    config.search.pace = "constant"
    return config

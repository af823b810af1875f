"""ResNet-56 on CIFAR-100, 16 M of 127.3 M multiply-adds kept, all layers at one pace.

    python search.py --config=configs/resnet56_macs_16m_constant_pace.py
    python train.py --config=configs/resnet56_macs_16m_constant_pace.py

Paper, without a pace per layer: 70.39; with it: resnet56_macs_16m.py.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_macs_16m


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_macs_16m.get_config()
    config.search.pace = "constant"
    return config

"""ResNet-56 on CIFAR-100, 2:16 in every layer: the baseline.

    python search.py --config=configs/resnet56_uniform.py
    python train.py --config=configs/resnet56_uniform.py

Paper: 71.08 (dense 74.8) with 0.11 M weights or 16 M MACs; 4:16 72.33
(--config.search.budget=0.251). It keeps 12.54 % of the weights, 16.3 M MACs.

Not run here: see resnet56_params_210k.py.
"""

from ml_collections import ConfigDict

from configs import resnet56_params_210k


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = resnet56_params_210k.get_config()
    config.search.update(method="uniform", budget=0.126)
    return config

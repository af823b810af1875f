"""The paper's ResNet-50 on ImageNet with 80 % of the weights removed: every key at its default.

Paper: dense 76.1; 4:16 everywhere 76.5 with 6.4 M weights; mixed N:16 76.7 with 5.0 M weights.
Not run here: needs ImageNet and several GPUs.
All keys are described in domino_jax/settings.py; each can be set on the command line, for
instance `--config.search.budget=0.125`.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the defaults."""
    return defaults()

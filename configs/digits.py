"""ResNet-20 on scikit-learn's hand-written digits, one weight in eight kept: the whole method
in minutes on two CPU cores."""

from configs import default
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of the digits run."""
    config = default.get_config()
    config.log_every = 20
    config.checkpoint_every = 500
    config.model.name = "resnet20"
    config.data.name = "digits"
    with config.dense.unlocked():
        config.dense.update(epochs=20.0, warmup_epochs=1.0, lr=0.1, batch=64, weight_decay=5e-4)
    config.search.update(
        budget=0.125,
        m=16,
        vote_every=10,
        penalty=0.5,
        penalty_doubles_at=(),
        lr=0.01,
        max_steps=3000,
    )
    config.train.update(epochs=20.0, warmup_epochs=1.0, lr=0.05, batch=64)
    return config

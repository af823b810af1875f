"""Letters and digits."""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.log_every = 20
    config.checkpoint_every = 1000
    with config.unlocked():
        config.model.update(name="resnet8", stem="imagenet", widths=(16, 16, 16))
    config.data.name = "glyphs"
    config.dense.update(epochs=12.0, warmup_epochs=1.0, batch=64, lr=0.1, weight_decay=5e-4)
    config.search.update(
        budget=0.125, vote_every=20, penalty=1.0, penalty_doubles_at=(), max_steps=5000
    )
    config.train.update(epochs=6.0, warmup_epochs=0.5, lr=0.05, batch=64, weight_decay=5e-4)
    return config

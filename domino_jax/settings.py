"""What a config file imports: `from domino_jax.settings import defaults`."""

from domino_jax.run.settings import defaults

__all__ = ["defaults"]

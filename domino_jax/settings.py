"""What a config file imports: `from domino_jax.settings import defaults`.

As a command it prints docs/settings.md: python -m domino_jax.settings > docs/settings.md
"""

from domino_jax.run.settings import defaults

__all__ = ["defaults"]

if __name__ == "__main__":
    from domino_jax.run.settings_page import page

    print(page(), end="")

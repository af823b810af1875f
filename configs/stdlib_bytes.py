"""A byte language model of 0.8 M weights on the source of Python's standard library.

    python search.py --config=configs/stdlib_bytes.py
    python train.py --config=configs/stdlib_bytes.py

The baselines: --config.search.method=uniform (or erk), and for all of them
python -m benchmarks.allocations --config=configs/stdlib_bytes.py --metric=loss

BYTES_MEASURED
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.log_every = 20
    config.checkpoint_every = 1000
    config.model.name = "byte_lm"
    config.data.name = "stdlib_bytes"
    config.dense.update(
        optimizer="adamw", lr=2e-3, weight_decay=0.01, epochs=0.04, warmup_epochs=0.004, batch=16
    )
    config.search.update(
        budget=0.25, vote_every=10, penalty=1.0, penalty_doubles_at=(), lr=0.05, batch=16
    )
    config.train.update(
        optimizer="adamw", lr=1e-3, weight_decay=0.01, epochs=0.015, warmup_epochs=0.0015, batch=16
    )
    return config

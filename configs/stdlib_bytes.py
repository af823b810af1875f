"""A byte language model of 0.8 M weights on the source of Python's standard library.

    python search.py --config=configs/stdlib_bytes.py
    python train.py --config=configs/stdlib_bytes.py

The baselines: --config.search.method=uniform (or erk), and for all of them
python -m domino_jax.compare --config=configs/stdlib_bytes.py --metric=loss --budgets=4:16,2:16

Measured (3 seeds, nats a byte): dense 1.713; at the weights of 4:16 uniform 1.664, mixed 1.675,
mixed of every N instead of powers of two 1.662; of 2:16 uniform 1.777, mixed 1.785 and 1.778. The
differences at 4:16 have a deviation of 0.003; benchmarks/RESULTS.md explains them. On two cores
133 s for the dense network, 31 s for the search, 69 s for the fine-tuning.
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
        optimizer="adamw", lr=2e-3, weight_decay=0.01, epochs=0.07, warmup_epochs=0.007, batch=16
    )
    config.search.update(
        budget=0.25, vote_every=10, penalty=1.0, penalty_doubles_at=(), lr=0.05, batch=16
    )
    config.train.update(
        optimizer="adamw", lr=1e-3, weight_decay=0.01, epochs=0.035, warmup_epochs=0.0035, batch=16
    )
    return config

"""A language model of Hugging Face for the 2:4 kernels of GPUs: each matrix is 2:4 or dense.

    python search.py --config=configs/causal_lm_ampere.py --config.init=DIR --config.data.dir=TEXT
    python train.py --config=configs/causal_lm_ampere.py --config.init=DIR --config.data.dir=TEXT
    python -m domino_jax.export --workdir=runs/causal_lm_ampere --out=OUT --format=hf

Three quarters of the weights in the blocks stay: half of these weights are in 2:4 matrices. A table
of milliseconds by layer and N, measured where the network will run, takes the place of the count of
weights: --config.search.objective=costs.json. All else is as in configs/causal_lm.py.

Needs a network and a text of your own. Measured on SmolLM2-135M, by these parts: perplexity 36.3
dense, 52.9 masked, 49.5 updated; by ERK 69.5 and 57.4 (benchmarks/RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import causal_lm


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = causal_lm.get_config()
    config.search.update(m=4, candidates=(2, 4), budget=0.75)
    return config

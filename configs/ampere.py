"""ResNet-50 on ImageNet for the 2:4 kernels of NVIDIA Ampere and newer: each layer 2:4 or dense.

    python search.py --config=configs/ampere.py
    python train.py --config=configs/ampere.py
    python -m domino_jax.export --workdir=runs/ampere --out=exported
    python -m domino_jax.deploy.runtime --check exported --costs=costs.json

The last one, on the GPU that will run the network, prints what is faster there and writes the
layers' milliseconds; `--config.search.objective=costs.json` makes the next search meet a share of
them. 2:4 everywhere keeps 50.0 % of the weights and 51.4 % of the MACs; at 60 % the search chooses
what stays dense. The stem always does: 3 channels, no multiple of 4, and a matrix of 147 columns,
no multiple of what the kernels take. All other matrices fit; the 1000 rows of `fc` are padded to
1008 by `deploy.runtime`.

Not run here: needs ImageNet and the GPU-hours of configs/default.py.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.search.update(m=4, candidates=(2, 4), budget=0.6)
    return config

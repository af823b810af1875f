"""The paper's ResNet-50 on ImageNet, 80 % of the weights removed; every key there is.

Other configs are small overrides of this one. Every key can be set on the command line, for
instance `--config.search.budget=0.125`.
Paper: dense 76.1, 4:16 everywhere 76.5 with 6.4 M weights, mixed N:16 76.7 with 5.0 M weights.
Not run here: needs ImageNet and 8 GPUs for about 2 days (as the paper's 120 epochs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the paper's settings."""
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # checkpoint of the dense network; '' trains it first
    config.scheme = ""  # scheme file for train.py; '' takes the work directory's
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps
    config.evaluate = False  # only evaluate what the work directory holds

    # All keys but `name` go to the factory.
    config.model = ConfigDict({"name": "resnet50"})
    # `name` as for models; `dir` '' is TFDS's own; worker processes 0: threads only.
    config.data = ConfigDict({"name": "imagenet2012", "dir": "", "workers": 0})

    config.dense = ConfigDict(
        {
            "optimizer": "sgd",  # 'sgd', 'adamw'
            "schedule": "cosine",  # 'cosine', 'constant'
            "warmup_epochs": 5.0,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "label_smoothing": 0.0,
            "epochs": 90.0,
            "batch": 256,
        }
    )
    config.search = ConfigDict(
        {
            "method": "domino",  # 'domino', 'uniform'
            "m": 16,
            "candidates": None,  # None: powers of two up to M; else increasing, ending in M
            "objective": "params",  # 'params', 'macs' or a JSON cost table {path: {n: cost}}
            "budget": 0.2,  # share kept
            "vote_ratio": 0.75,
            "vote_every": 100,  # steps
            "penalty": 0.1,
            "penalty_every": 5,  # steps
            "penalty_doubles_at": (30_000, 10_000),  # first, then every; () never
            "pace": "domino",  # 'domino', 'constant'
            "erk_weight": None,  # None: 0.5 for params, 0.2 otherwise
            "macs_weight": None,  # None: 0.5 for params, 0.8 otherwise
            "lr": 0.01,
            "batch": 64,
            "max_steps": 100_000,
            "patience": 200,  # votes without any change
            "rules": (),  # ((regex, 'dense' | 'flatten' | M | candidates), ...), first match wins
        }
    )
    config.train = ConfigDict(
        {
            "method": "sr_ste",  # 'sr_ste', 'straight_through', 'fixed'
            "optimizer": "sgd",  # 'sgd', 'adamw', 'adamw_decoupled'
            "schedule": "cosine",
            "warmup_epochs": 5.0,
            "sr_ste": 5e-4,
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-5,
            "label_smoothing": 0.0,
            "epochs": 120.0,
            "batch": 256,
            "start": "dense",  # 'dense', 'random'
        }
    )
    return config

"""Settings: the defaults pass, and every rule refuses what it should, with key, wish and value."""

import importlib.util
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from domino_jax.run import settings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))

# Of each setting: what is allowed, what is refused.
TEXT = (["", "runs/a"], [None, 3, ("a",)])
NAME = (["resnet20", "a.b:c"], ["", None, 3])
COUNT = ([1, 10**9], [0, -1, 1.5, True, "1", None, math.nan])
COUNT_OR_NONE = ([0, 4], [-1, 0.5, False, "0", None])
POSITIVE = ([1e-9, 3, 1e9], [0, -1.0, math.inf, math.nan, True, "1", None])
NOT_NEGATIVE = ([0, 0.5, 7], [-1e-9, math.inf, math.nan, False, "0", None, (1,), 10**400])
BELOW_ONE = ([0, 0.99], [1, -0.1, math.nan, "0.9", None])
WEIGHT = ([None, 0.5, 3], [-0.5, math.inf, "0.5", True])
OPTIMIZING = {
    "schedule": (["cosine", "constant"], ["linear", "", None, 3, ["cosine"]]),
    "warmup_epochs": NOT_NEGATIVE,
    "lr": POSITIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NOT_NEGATIVE,
    "label_smoothing": BELOW_ONE,
    "epochs": POSITIVE,
    "batch": COUNT,
}
VALUES = {
    "seed": ([0, 2**32 - 1], [-1, 2**32, 0.5, True, None]),
    "init": TEXT,
    "init_head": ([True], [1, 0, "False", None]),
    "scheme": TEXT,
    "log_every": COUNT,
    "checkpoint_every": COUNT,
    "evaluate": ([True, False], [0, 1, "True", None]),
    "dry_run": ([True, False], [0, 1, "True", None]),
    "model.name": NAME,
    "data.name": NAME,
    "data.dir": TEXT,
    "data.workers": COUNT_OR_NONE,
    "dense.optimizer": (["sgd", "adamw"], ["adam", "adamw_decoupled", None]),
    "search.method": (["domino", "uniform", "erk", "dense"], ["greedy", None]),
    "search.m": ([2, 64], [1, 65, 4.0, True, "4", None]),
    "search.candidates": (
        [None, (1, 2, 16), [16], (15, 16)],
        [
            (),
            16,
            "1,16",
            (2, 1, 16),
            (1, 1, 16),
            (0, 16),
            (1.0, 16),
            (True, 16),
            (1, 2, 8),
            (16, 32),
        ],
    ),
    "search.objective": (["params", "macs", "costs.json"], ["", None, 1]),
    "search.budget": ([1e-9, 0.999], [0, 1, 1.5, -0.1, math.nan, True, "0.2", None]),
    "search.vote_ratio": ([0.01, 1], [0, 1.01, math.nan, True, None]),
    "search.vote_every": COUNT,
    "search.penalty": NOT_NEGATIVE,
    "search.penalty_every": COUNT,
    "search.penalty_doubles_at": (
        [(), (30_000, 10_000), [1, 1]],
        [None, 5, (5,), (1, 2, 3), (0, 5), (5, 0), (1.5, 2), "ab"],
    ),
    "search.pace": (["domino", "constant"], ["erk", None]),
    "search.erk_weight": WEIGHT,
    "search.macs_weight": WEIGHT,
    "search.lr": POSITIVE,
    "search.batch": COUNT,
    "search.max_steps": COUNT,
    "search.patience": COUNT,
    "search.shrink_m": ([True, False], [0, 1, "True", None]),
    "search.rules": (
        [(), (("a", "dense"), ("b$", "flatten")), [["c", 8]], (("d", (1, 2, 4)),)],
        [None, "dense", ("a", "dense"), (("a",),), (("a", "dense", 1),), ((1, "dense"),)],
    ),
    "train.method": (["sr_ste", "straight_through", "fixed"], ["ste", None]),
    "train.optimizer": (["sgd", "adamw", "adamw_decoupled"], ["adam", None]),
    "train.sr_ste": NOT_NEGATIVE,
    "train.start": (["dense", "random"], ["scratch", None]),
    **{
        f"{phase}.{key}": values
        for phase in ("dense", "train")
        for key, values in OPTIMIZING.items()
    },
}


def changed(**values):
    """Returns the defaults with other values, of whatever type: search__m=8."""
    # Anew: a ConfigDict turns what is set later into the type of the default.
    tree = {
        key: dict(value.items()) if isinstance(value, ConfigDict) else value
        for key, value in settings.defaults().items()
    }
    for key, value in values.items():
        group, _, name = key.rpartition("__")
        (tree[group] if group else tree)[name] = value
    return ConfigDict(tree)


def set_one(key, value):
    # Any number of epochs, of warm-up epochs too, shall do.
    others = {f"{phase}__warmup_epochs": 0.0 for phase in ("dense", "train")}
    return changed(**(others | {key.replace(".", "__"): value}))


def test_defaults_pass():
    settings.check(settings.defaults())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_pass(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings.check(module.get_config())


def test_the_tables_cover_every_setting():
    def flat(config, prefix=""):
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    assert set(settings.names()) == set(flat(settings.defaults())) == set(VALUES)
    assert settings.groups() == ("model", "data", "dense", "search", "train")


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, (good, _) in VALUES.items() for value in good]
)
def test_allowed(key, value):
    settings.check(set_one(key, value))


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, (_, bad) in VALUES.items() for value in bad]
)
def test_refused(key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as caught:
        settings.check(set_one(key, value))
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert "\n" not in message
    assert f"got {value!r}" in message
    assert settings.wanted(key) in message or "must end in search.m = 16" in message


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("a[", "dense"), r"rule 'a\[' is not a regular expression"),
        (("a", "dens"), "rule 'a' has the value 'dens'; allowed are 'dense', 'flatten'"),
        (("a", 1), "rule 'a' has the value 1"),
        (("a", 65), "rule 'a' has the value 65"),
        (("a", True), "rule 'a' has the value True"),
        (("a", (4, 2)), r"rule 'a' has the value \(4, 2\)"),
        (("a", (0, 4)), r"rule 'a' has the value \(0, 4\)"),
        (("a", None), "rule 'a' has the value None"),
    ],
)
def test_rules_of_a_wrong_kind(rule, message):
    with pytest.raises(ValueError, match=message):
        settings.check(changed(search__rules=(("", "dense"), rule)))


@pytest.mark.parametrize("phase", ["dense", "train"])
def test_warmup_within_the_training(phase):
    settings.check(changed(**{f"{phase}__epochs": 2.0, f"{phase}__warmup_epochs": 2.0}))
    with pytest.raises(
        ValueError, match=rf"{phase}\.warmup_epochs: at most .*epochs = 2 .*got 2\.5"
    ):
        settings.check(changed(**{f"{phase}__epochs": 2.0, f"{phase}__warmup_epochs": 2.5}))


def test_some_pace():
    nothing = {"search__macs_weight": 0.0, "search__erk_weight": 0.0}
    with pytest.raises(ValueError, match=r"search\.macs_weight and search\.erk_weight"):
        settings.check(changed(**nothing))
    settings.check(changed(**nothing, search__pace="constant"))
    settings.check(changed(search__macs_weight=0.0))


@pytest.mark.parametrize("method", ["fixed", "straight_through"])
def test_only_sr_ste_has_a_term_to_stand_beside_adam(method):
    settings.check(changed(train__method=method, train__optimizer="adamw"))
    with pytest.raises(ValueError, match=r"train\.optimizer: .*got 'adamw_decoupled'"):
        settings.check(changed(train__method=method, train__optimizer="adamw_decoupled"))


def test_candidates_end_in_m():
    settings.check(changed(search__m=6, search__candidates=(2, 3, 6)))
    with pytest.raises(ValueError, match=r"candidates: must end in search\.m = 6, got \(2, 4\)"):
        settings.check(changed(search__m=6, search__candidates=(2, 4)))


def test_unknown_settings():
    with pytest.raises(
        ValueError, match=r"unknown setting 'search\.budgt'; nearest: search\.budget"
    ):
        settings.check(changed(search__budgt=0.5))
    with pytest.raises(ValueError, match="unknown setting 'sead'; nearest: seed"):
        settings.check(changed(sead=1))


def test_options_of_factories_are_free():
    settings.check(changed(model__width=3, data__augment="much"))


def test_missing_settings():
    config = settings.defaults()
    with config.unlocked():
        del config.search.m
    with pytest.raises(ValueError, match=r"setting search\.m is missing; start from domino_jax"):
        settings.check(config)
    with config.unlocked():
        del config.search
    with pytest.raises(ValueError, match=r"setting search\.\w+ is missing"):
        settings.check(config)


def test_groups_stay_groups():
    with pytest.raises(
        ValueError, match=r"data: a group of settings \(name, dir, workers\).*got 3"
    ):
        settings.check(changed(data=3))
    with pytest.raises(
        ValueError, match=r"model: a group of settings \(name\) is wanted, got None"
    ):
        settings.check(changed(model=None))

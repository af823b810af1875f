"""Settings: the defaults pass, and every rule refuses what it should, with key, wish and value."""

import copy
import importlib.util
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
import tiny
from ml_collections import ConfigDict

from domino_jax.core.errors import InputError
from domino_jax.run import experiment, overrides, settings, settings_page
from domino_jax.run.settings_table import GROUPS, SETTINGS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# Of each setting: what is allowed, what is refused.
TEXT = (["", "runs/a"], [None, 3, ("a",), "a\0b"])
NAME = (["resnet20", "a.b:c"], ["", None, 3, "a\0"])
COUNT = ([1, 2**31 - 1], [0, -1, 2**31, 10**10, 1.5, True, "1", None, math.nan])
COUNT_OR_NONE = ([0, 4, 1024], [-1, 1025, 0.5, False, "0", None])
POSITIVE = ([1e-9, 3, 1e38], [0, -1.0, 1.1e38, math.inf, math.nan, True, "1", None, 10**400])
NOT_NEGATIVE = ([0, 0.5, 1e38], [-1e-9, 1e39, math.inf, math.nan, False, "0", None, (1,), 10**400])
EPOCHS = ([0.5, 1e6], [0, -1.0, 1000001, math.inf, math.nan, True, "1", None])
WARMUP = ([0, 0.5, 7], [-1e-9, 1e7, math.inf, math.nan, False, "0", None, (1,), 10**400])
BELOW_ONE = ([0, 0.99], [1, -0.1, math.nan, "0.9", None])
WEIGHT = ([None, 0.5, 3], [-0.5, 1e39, math.inf, "0.5", True])
OPTIMIZING = {
    "schedule": (["cosine", "constant"], ["linear", "", None, 3, ["cosine"]]),
    "warmup_epochs": WARMUP,
    "lr": POSITIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NOT_NEGATIVE,
    "label_smoothing": BELOW_ONE,
    "epochs": EPOCHS,
    "batch": COUNT,
}
VALUES = {
    "seed": ([0, 2**32 - 1], [-1, 2**32, 0.5, True, None]),
    "init": TEXT,
    "init_head": ([True], [1, 0, "False", None]),
    "permute": (["", "2:4", "1:16"], ["4:2", "0:4", "2of4", None, 2]),
    "accumulate": COUNT,
    "remat": ([True, False], [0, 1, "True", None]),
    "scheme": TEXT,
    "loss": (
        ["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error", "my:own"],
        ["mse", "", None],
    ),
    "log_every": COUNT,
    "checkpoint_every": COUNT,
    "evaluate": ([True, False], [0, 1, "True", None]),
    "dry_run": ([True, False], [0, 1, "True", None]),
    "model.name": NAME,
    "train.recalibrate": ([True, False], [0, 1, "True", None]),
    "data.name": NAME,
    "data.dir": TEXT,
    "data.workers": COUNT_OR_NONE,
    "mesh.data": ([-1, 1, 8], [-2, 2**31, 0.5, True, "1", None]),
    "mesh.model": COUNT,
    "dense.optimizer": (["sgd", "adamw"], ["adam", "adamw_decoupled", None]),
    "search.method": (
        [
            "domino",
            "uniform",
            "erk",
            "dense",
            "instant",
            "sensitivity",
            "fisher",
            "kdiag",
            "kronecker",
            "table",
        ],
        ["greedy", None],
    ),
    "search.m": ([2, 64], [1, 65, 4.0, True, "4", None]),
    "search.candidates": (
        [None, "every", (1, 2, 16), [16], (15, 16)],
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
    "search.budget": (
        [1e-9, 0.999, "25%", "1/4", "5.0M", "227M MACs", 1_600_000],
        [0, 1, 1.5, -0.1, math.nan, True, "100%", "4/4", "20 percent", "5T", "", None],
    ),
    "search.budget_of": (["all", "movable"], ["some", None]),
    "search.nm": (["", "2:4", "8:16"], ["4:2", "2/4", "0:4", 2, None]),
    "search.vote_ratio": ([0.01, 1], [0, 1.01, math.nan, True, None]),
    "search.vote_every": COUNT,
    "search.penalty": NOT_NEGATIVE,
    "search.penalty_every": COUNT,
    "search.penalty_doubles_at": (
        [(), (30_000, 10_000), [1, 1]],
        [None, 5, (5,), (1, 2, 3), (0, 5), (5, 0), (1.5, 2), (2**31, 5), "ab"],
    ),
    "search.pace": (["domino", "constant"], ["erk", None]),
    "search.erk_weight": WEIGHT,
    "search.macs_weight": WEIGHT,
    "search.lr": POSITIVE,
    "search.batch": COUNT,
    "search.max_steps": COUNT,
    "search.patience": COUNT,
    "search.calibration_batches": COUNT,
    "train.calibration_batches": COUNT,
    "train.score": ([None, "magnitude", "wanda", "mine:score"], ["wand", ""]),
    "search.calibration_statistics": (["running", "batch"], ["frozen", "", None]),
    "search.score": (["magnitude", "wanda", "fisher", "mine:score"], ["wand", ""]),
    "search.low_memory": ([True, False], [1, "yes"]),
    "search.grid": ([None, (1, 2, 4), [8]], [(), 8, "1,2", (2, 1), (0, 1), (1.0,)]),
    "search.table": ([""], TEXT[1]),  # the method 'table' alone reads another
    "search.budgets": (
        [(), (("macs", "50%"),), [["t.json", 0.5], ["params", "5M"]]],
        [None, "macs", ("macs", 0.5), (("macs",),), (("macs", 2.0),), (("", 0.5),)],
    ),
    "search.guard": (["none", "uniform"], ["erk", "", None]),
    "search.refine": ([0, 5], [-1, 1.5, "1", None]),
    "search.shrink_m": ([True, False], [0, 1, "True", None]),
    "search.rules": (
        [(), (("a", "dense"), ("b$", "flatten")), [["c", 8]], (("d", (1, 2, 4)),)],
        [None, "dense", ("a", "dense"), (("a",),), (("a", "dense", 1),), ((1, "dense"),)],
    ),
    "train.method": (["sr_ste", "straight_through", "fixed", "none", "my:own"], ["ste", None]),
    "train.ramp": (["", "linear", "cubic"], ["square", None]),
    "train.ramp_from": ([0, 0.5], [1, -0.1, math.nan, "0", None]),
    "train.ramp_until": ([0.5, 1], [0, 1.1, math.nan, "1", None]),
    "train.mask_every": COUNT,
    "train.switch": ([(0.1, 0.5), (0.0, 1.0)], [(0.5, 0.1), (0.5,), 0.5, None, (-0.1, 0.5)]),
    "train.distill": ([0, 0.5, 1], [-0.1, 1.1, math.nan, "0.5", None]),
    "train.temperature": POSITIVE,
    "train.pattern": (["n:m", "unstructured"], ["2:4", "", None]),
    "train.optimizer": (["sgd", "adamw", "adamw_decoupled"], ["adam", None]),
    "train.sr_ste": NOT_NEGATIVE,
    "train.start": (["dense", "random"], ["scratch", None]),
    **{
        f"{phase}.{key}": values
        for phase in ("dense", "train")
        for key, values in OPTIMIZING.items()
    },
    # Without a step the masked network is all.
    "train.epochs": ([0, 0.0, *EPOCHS[0]], [value for value in EPOCHS[1] if value != 0]),
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


@pytest.mark.parametrize("m", [4, 8])
def test_every_n_is_all_up_to_m(m):
    """In a config file, and whatever M is."""
    config = scripts.settings()
    config.search.candidates = "every"
    config.search.m = m
    settings.check(config)
    example = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32)
    model = tiny.network(example=example, classes=3, seed=0)
    layers = experiment.layers_of(model, example, config.search)
    assert {layer.candidates for layer in layers} == {tuple(range(1, m + 1))}


def test_the_tables_cover_every_setting():
    def flat(config, prefix=""):
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    assert set(SETTINGS) == set(flat(settings.defaults())) == set(VALUES)
    assert tuple(GROUPS) == ("model", "data", "mesh", "dense", "search", "train")


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, (good, _) in VALUES.items() for value in good]
)
def test_allowed(key, value):
    if value == 1e38 and key in sum(DECAYS, ()):  # alone; what goes together is asked below
        assert SETTINGS[key].allows(value)
    else:
        settings.check(set_one(key, value))


DECAYS = (
    ("dense.lr", "dense.weight_decay"),
    ("train.lr", "train.weight_decay"),
    ("train.lr", "train.sr_ste"),
    ("search.lr", "search.penalty"),
    ("search.penalty", "search.erk_weight"),
    ("search.penalty", "search.macs_weight"),
)


@pytest.mark.parametrize("pair", DECAYS)
def test_decays_that_overshoot(pair):
    config = settings.defaults()
    values = {"search.lr": 0.5, "search.macs_weight": 0.5, "search.erk_weight": 0.5}
    for key, value in (values | dict.fromkeys(pair, 2.1)).items():
        group, _, name = key.partition(".")
        config[group][name] = value
    config.search.lr = 2.1 if pair[0] == "search.lr" else 1.0
    if pair == ("search.lr", "search.penalty"):
        config.search.macs_weight = None
    with pytest.raises(InputError, match=r"expected at most 4, or weights grow.*; got .*2\.1"):
        settings.check(config)
    group, _, name = pair[0].partition(".")
    config[group][name] = 1.9
    config.search.lr = min(config.search.lr, 1.0)
    settings.check(config)


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
    assert (
        settings.expected(key) in message or "expected a last candidate of search.m = 16" in message
    )


@pytest.mark.parametrize("key", VALUES)
def test_an_array_is_refused(key):
    for array in (np.array([1, 2, 4]), np.array([]), np.array(["every"])):
        with pytest.raises(InputError, match=key.replace(".", r"\.")):
            settings.check(set_one(key, array))


def test_a_group_that_is_in_itself():
    config = settings.defaults().unlock()
    config.model.me = config
    with pytest.raises(
        InputError, match=r"^model\.me: expected a value, got a group that it is in$"
    ):
        settings.check(config)


@pytest.mark.parametrize(("options", "said"), [({3: 4}, "3"), ({3: 4, "a": 1}, "a mixture")])
def test_a_key_that_is_no_text(options, said):
    with pytest.raises(InputError, match=rf"^model\.head: expected text as every key, got {said}$"):
        settings.check(changed(model__head=options))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("a[", "dense"), r"rule 'a\[' is not a regular expression"),
        (("a", "dens"), "rule 'a': expected 'dense', 'flatten', .*, got 'dens'"),
        (("a", 1), "rule 'a': expected .*, got 1"),
        (("a", 65), "rule 'a': expected .*, got 65"),
        (("a", True), "rule 'a': expected .*, got True"),
        (("a", (4, 2)), r"rule 'a': expected .*, got \(4, 2\)"),
        (("a", (0, 4)), r"rule 'a': expected .*, got \(0, 4\)"),
        (("a", None), "rule 'a': expected .*, got None"),
    ],
)
def test_rules_of_a_wrong_kind(rule, message):
    with pytest.raises(ValueError, match=message):
        settings.check(changed(search__rules=(("", "dense"), rule)))


@pytest.mark.parametrize("phase", ["dense", "train"])
def test_warmup_within_the_training(phase):
    settings.check(changed(**{f"{phase}__epochs": 2.0, f"{phase}__warmup_epochs": 2.0}))
    with pytest.raises(
        ValueError, match=rf"{phase}\.warmup_epochs: expected at most .*epochs = 2, got 2\.5"
    ):
        settings.check(changed(**{f"{phase}__epochs": 2.0, f"{phase}__warmup_epochs": 2.5}))


def test_some_pace():
    nothing = {"search__macs_weight": 0.0, "search__erk_weight": 0.0}
    with pytest.raises(ValueError, match=r"search\.macs_weight and search\.erk_weight"):
        settings.check(changed(**nothing))
    settings.check(changed(**nothing, search__pace="constant"))
    settings.check(changed(search__macs_weight=0.0))


def test_candidates_end_in_m():
    settings.check(changed(search__m=6, search__candidates=(2, 3, 6)))
    with pytest.raises(
        ValueError, match=r"candidates: expected a last candidate of search\.m = 6, got \(2, 4\)"
    ):
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
        ValueError, match=r"data: expected a group of settings \(name, dir, workers\), got 3"
    ):
        settings.check(changed(data=3))
    with pytest.raises(ValueError, match=r"model: expected a group of settings \(name\), got None"):
        settings.check(changed(model=None))


def test_the_page_is_made_of_the_table():
    page = ROOT / "docs" / "settings.md"
    assert page.read_text() == settings_page.page(), f"run {settings_page.COMMAND}"
    assert settings_page.COMMAND in page.read_text()
    for key in SETTINGS:
        assert page.read_text().count(f"| `{key}` |") == 1


def test_help_has_every_setting():
    lines = settings_page.help_text("Does it.", {"--flag": "A flag."}).splitlines()
    for key, setting in SETTINGS.items():
        assert lines.count(f"  {key}={setting.default!r}") == 1
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.search.update(m="four"),
            "search.m: expected a whole number from 2 to 64, got",
        ),
        (lambda c: setattr(c.train, "lr", "high"), "train.lr: expected a number above 0"),
        (lambda c: setattr(c, "search", 3), "search: expected a group of settings"),
        (
            lambda c: setattr(c.search, "budgt", 1),
            "unknown setting 'search.budgt'; nearest: search.bud",
        ),
        (lambda c: c.serch.m, "unknown setting 'serch'; nearest: search"),
        (
            lambda c: c.search.erk_wait,
            "unknown setting 'search.erk_wait'; nearest: search.erk_weight",
        ),
    ],
)
def test_a_config_names_the_setting_that_it_refuses(change, message):
    for config in (settings.defaults(), copy.deepcopy(settings.defaults())):
        with pytest.raises(InputError, match=re.escape(message)):
            change(config)


@pytest.mark.parametrize("key", ["search.m", "seed"])
def test_a_config_that_lacks_what_is_set(key):
    config = settings.defaults()
    group, _, name = key.rpartition(".")
    with config.unlocked():
        del (config[group] if group else config)[name]
    said = rf"setting {key} is missing; start from .* \(mine\.py lacks it\)"
    with pytest.raises(InputError, match=said):
        overrides.apply(config, [overrides.Override(key, "4")], "mine.py")

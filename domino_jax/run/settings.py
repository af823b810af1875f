"""Every setting of the two scripts, the paper's value of it, and what it may be."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from domino_jax.allocate.paces import PACES
from domino_jax.allocate.table import ALLOCATORS
from domino_jax.core.errors import InputError
from domino_jax.core.paths import require_known
from domino_jax.core.rules import require_rules
from domino_jax.pytorch.state_dict import SUFFIXES, is_torch_file
from domino_jax.train.optim import DENSE_OPTIMIZERS, METHODS, OPTIMIZERS, SCHEDULES

STARTS = ("dense", "random")
START = "domino_jax.settings.defaults()"
FACTORY_OPTIONS = ("model.", "data.")  # further keys of these go to the factories
LARGEST_SEED = 2**32 - 1  # of which JAX uses the lower 32 bits


def defaults() -> ConfigDict:
    """Returns the paper's ResNet-50 on ImageNet, 80 % of the weights removed; locked."""
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # dense network: a checkpoint, a .pth or .safetensors file; '' trains it
    config.init_head = True  # False: the last layer of such a file is left out (other classes)
    config.scheme = ""  # scheme.json or the paper's .txt for train.py; '': the work directory's
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps
    config.evaluate = False  # train.py: only evaluate what the work directory holds
    config.dry_run = False  # one step of each phase on zeros of the data's shapes; writes nothing

    # Keys added to `model` and `data` (unlock them first) go to the factory as options.
    config.model = ConfigDict({"name": "resnet50"})  # or 'package.module:factory'
    # `dir` '' is TFDS's own; 0 worker processes: threads only.
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
            # 'sensitivity', 'fisher': least loss (domino_jax/allocate); 'table': of search.table;
            # 'domino'; 'uniform': the largest n of M that fits everywhere; 'erk': densities of
            # Erdős–Rényi-kernel graphs, rounded to candidates; 'dense': nothing is removed; or
            # 'package.module:function' (domino_jax/allocate/table.py)
            "method": "domino",
            "m": 16,
            "candidates": placeholder(tuple),  # None: powers of two up to M; else ending in M
            "objective": "params",  # 'params', 'macs' or a JSON cost table {path: {n: cost}}
            "budget": 0.2,  # share kept
            "vote_ratio": 0.75,
            "vote_every": 100,  # steps
            "penalty": 0.1,
            "penalty_every": 5,  # steps
            "penalty_doubles_at": (30_000, 10_000),  # first, then every; () never
            "pace": "domino",  # 'domino', 'constant', 'package.module:function'
            "erk_weight": placeholder(float),  # None: 0.5 for params, 0.2 otherwise
            "macs_weight": placeholder(float),  # None: 0.5 for params, 0.8 otherwise
            "lr": 0.01,
            "batch": 64,
            "max_steps": 100_000,
            "patience": 200,  # votes without any change
            # Of the training data, search.batch examples each; as many again tell the best scheme.
            "calibration_batches": 8,
            "calibration_statistics": "running",  # of batch norms; 'batch': each batch's own
            "grid": placeholder(tuple),  # n that 'sensitivity' measures; None: all candidates
            "table": "",  # the file that 'table' reads
            "shrink_m": False,  # where M does not divide the inputs: their gcd instead of dense
            # ((regex, 'dense' | 'flatten' | 'shrink' | M | candidates), ...): first match wins
            "rules": (),
        }
    )
    config.train = ConfigDict(
        {
            "method": "sr_ste",  # 'sr_ste', 'straight_through', 'fixed'
            "optimizer": "sgd",  # 'sgd', 'adamw' (SR-STE before Adam), 'adamw_decoupled' (beside)
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
    return config.lock()


def check(config: ConfigDict) -> None:
    """Refuses settings that are unknown, missing, of the wrong kind or out of range.

    Raises:
        InputError: the first wrong key, what came and what is allowed.
    """
    known = dict(flat(defaults()))
    given = dict(flat(config))
    for group in groups():
        if group in given:
            raise InputError(f"{wanted(group)}, got {given[group]!r}")
    own = [key for key in given if not key.startswith(FACTORY_OPTIONS)]
    require_known(own, list(known), what="setting")
    for key in known:
        if key not in given:
            raise InputError(f"setting {key} is missing; start from {START}")
        if not _allows(key, given[key]):
            raise InputError(f"{wanted(key)}, got {given[key]!r}")
    _require_final_candidate(given)
    _require_pace(given)
    _require_term(given)
    for phase in ("dense", "train"):
        _require_short_warmup(given, phase)
    _require_torch_init(given)
    require_rules(given["search.rules"])


def flat(tree: ConfigDict | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings of a tree of groups: 'search.budget' and its value."""
    # Items of a ConfigDict, not of to_dict(): that one turns tuples into lists.
    for key, value in tree.items():
        if isinstance(value, ConfigDict | Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def names() -> tuple[str, ...]:
    """Lists all settings, such as 'search.budget'."""
    return tuple(_RULES)


def groups() -> tuple[str, ...]:
    """Lists the groups of settings, such as 'search'."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in _RULES if "." in key))


def wanted(key: str) -> str:
    """Says what a setting, or a group of them, must be."""
    if key in groups():
        members = [known.partition(".")[2] for known in _RULES if known.startswith(f"{key}.")]
        return f"{key}: a group of settings ({', '.join(members)}) is wanted"
    return f"{key}: {_RULES[key][1]} is wanted"


def _allows(key: str, value: Any) -> bool:
    try:
        return bool(_RULES[key][0](value))
    except (TypeError, OverflowError):  # not comparable, or too large for a float
        return False


def _require_final_candidate(given: dict[str, Any]) -> None:
    m, candidates = given["search.m"], given["search.candidates"]
    if candidates is not None and candidates[-1] != m:
        raise InputError(f"search.candidates: must end in search.m = {m}, got {candidates}")


def _require_pace(given: dict[str, Any]) -> None:
    weights = ("search.macs_weight", "search.erk_weight")
    if given["search.pace"] == "domino" and all(given[key] == 0 for key in weights):
        raise InputError(f"{' and '.join(weights)}: one must be above 0, or no layer ever decays")


def _require_term(given: dict[str, Any]) -> None:
    method, optimizer = given["train.method"], given["train.optimizer"]
    if method != "sr_ste" and optimizer not in DENSE_OPTIMIZERS:
        raise InputError(
            f"train.optimizer: one of {', '.join(map(repr, DENSE_OPTIMIZERS))} is wanted where "
            f"train.method is {method!r}, got {optimizer!r}"
        )


def _require_torch_init(given: dict[str, Any]) -> None:
    if not given["init_head"] and not is_torch_file(given["init"]):
        raise InputError(
            f"init_head: False needs an init that ends in {' or '.join(SUFFIXES)}, "
            f"got {given['init']!r}"
        )


def _require_short_warmup(given: dict[str, Any], phase: str) -> None:
    warmup, epochs = given[f"{phase}.warmup_epochs"], given[f"{phase}.epochs"]
    if warmup > epochs:
        raise InputError(
            f"{phase}.warmup_epochs: at most {phase}.epochs = {epochs:g} is wanted, got {warmup:g}"
        )


def _whole(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: _is_int(v) and v >= low, f"a whole number of {low} or more"


def _number(low: float, *, above: bool = False) -> tuple[Callable[[Any], bool], str]:
    if above:
        return lambda v: _is_number(v) and v > low, f"a number above {low:g}"
    return lambda v: _is_number(v) and v >= low, f"a number of {low:g} or more"


def _one_of(names: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in names, "one of " + ", ".join(map(repr, names))


def _one_of_or_own(table: Mapping[str, Any]) -> tuple[Callable[[Any], bool], str]:
    """Allows the names of a table, and those of one's own functions."""
    names = ", ".join(map(repr, table))
    return (
        lambda v: isinstance(v, str) and (v in table or ":" in v),
        f"one of {names}, or 'package.module:function',",
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_increasing(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) > 0
        and all(_is_int(n) and n >= 1 for n in value)
        and all(a < b for a, b in itertools.pairwise(value))
    )


def _is_pair_of_steps(value: Any) -> bool:
    return isinstance(value, tuple | list) and (
        len(value) == 0 or (len(value) == 2 and all(_is_int(v) and v >= 1 for v in value))
    )


def _is_rules(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
        for rule in value
    )


_TEXT = (lambda v: isinstance(v, str), "text")
_FLAG = (lambda v: isinstance(v, bool), "True or False")
_NAME = (lambda v: isinstance(v, str) and bool(v), "a name")
_SHARE = (lambda v: _is_number(v) and 0 < v < 1, "a share above 0 and below 1")
_SMOOTHING = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 to below 1")
_WEIGHT = (
    lambda v: v is None or (_is_number(v) and v >= 0),
    "a number of 0 or more, or None (the default),",
)
_OPTIMIZING = {
    "schedule": _one_of(SCHEDULES),
    "warmup_epochs": _number(0),
    "lr": _number(0, above=True),
    "momentum": _SMOOTHING,
    "weight_decay": _number(0),
    "label_smoothing": _SMOOTHING,
    "epochs": _number(0, above=True),
    "batch": _whole(1),
}
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (
        lambda v: _is_int(v) and 0 <= v <= LARGEST_SEED,
        f"a whole number from 0 to {LARGEST_SEED}",
    ),
    "init": _TEXT,
    "init_head": _FLAG,
    "scheme": _TEXT,
    "log_every": _whole(1),
    "checkpoint_every": _whole(1),
    "evaluate": _FLAG,
    "dry_run": _FLAG,
    "model.name": _NAME,
    "data.name": _NAME,
    "data.dir": _TEXT,
    "data.workers": _whole(0),
    "dense.optimizer": _one_of(DENSE_OPTIMIZERS),
    **{f"dense.{key}": rule for key, rule in _OPTIMIZING.items()},
    "search.method": _one_of_or_own(ALLOCATORS),
    "search.m": (lambda v: _is_int(v) and 2 <= v <= 64, "a whole number from 2 to 64"),
    "search.candidates": (
        lambda v: v is None or _is_increasing(v),
        "None or a rising tuple of whole numbers of 1 or more",
    ),
    "search.objective": _NAME,
    "search.budget": _SHARE,
    "search.vote_ratio": (lambda v: _is_number(v) and 0 < v <= 1, "a share above 0, at most 1"),
    "search.vote_every": _whole(1),
    "search.penalty": _number(0),
    "search.penalty_every": _whole(1),
    "search.penalty_doubles_at": (_is_pair_of_steps, "() or (first step, then every)"),
    "search.pace": _one_of_or_own(PACES),
    "search.erk_weight": _WEIGHT,
    "search.macs_weight": _WEIGHT,
    "search.lr": _number(0, above=True),
    "search.batch": _whole(1),
    "search.max_steps": _whole(1),
    "search.patience": _whole(1),
    "search.shrink_m": _FLAG,
    "search.calibration_batches": _whole(1),
    "search.calibration_statistics": _one_of(("running", "batch")),
    "search.grid": (
        lambda v: v is None or _is_increasing(v),
        "None or a rising tuple of whole numbers of 1 or more",
    ),
    "search.table": _TEXT,
    "search.rules": (_is_rules, "a tuple of pairs (regex, value)"),
    "train.method": _one_of(METHODS),
    "train.optimizer": _one_of(OPTIMIZERS),
    "train.sr_ste": _number(0),
    "train.start": _one_of(STARTS),
    **{f"train.{key}": rule for key, rule in _OPTIMIZING.items()},
}

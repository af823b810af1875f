"""The settings of both scripts as a config: its defaults, and the checks of a whole config."""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from domino_jax.core.errors import InputError
from domino_jax.run.kinds import EVERY
from domino_jax.run.settings_table import GROUPS, SETTINGS

START = "domino_jax.settings.defaults()"
_MOST_DECAY = 4.0
FACTORY_OPTIONS = ("model.", "data.")  # further keys of these go to the factories


class UnknownSetting(InputError, AttributeError):  # noqa: N818 (reads as a sentence)
    """A config has no such setting. An AttributeError too, which `hasattr` and `copy` ask for."""


class Settings(ConfigDict):
    """A config, or one group of it, that names the setting which it refuses."""

    def __init__(self, *arguments: Any, group: str = "", **options: Any) -> None:
        """Makes a config as ConfigDict does; the keys of `group` are 'group.key'."""
        object.__setattr__(self, "_group", group)
        super().__init__(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        """Returns a setting."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):  # what Python itself asks for
                raise
            raise UnknownSetting(unknown(self._key(name))) from None

    def __setitem__(self, name: str, value: Any) -> None:
        """Changes a setting; a locked config takes no new one, and none another type."""
        try:
            super().__setitem__(name, value)
        except KeyError:
            raise UnknownSetting(unknown(self._key(name))) from None
        except TypeError:
            if (key := self._key(name)) not in (*GROUPS, *SETTINGS):
                raise
            raise InputError(f"{expected(key)}, got {value!r}") from None

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Makes a copy, or what was pickled."""
        super().__setstate__(state)
        object.__setattr__(self, "_group", state["_group"])

    def _key(self, name: str) -> str:
        return f"{self._group}.{name}" if self._group else name


def defaults() -> ConfigDict:
    """Returns the paper's ResNet-50 on ImageNet, 80 % of the weights removed; locked."""
    config = Settings()
    for group in GROUPS:
        config[group] = Settings(group=group)
    for key, setting in SETTINGS.items():
        group, _, name = key.rpartition(".")
        default = setting.default
        if setting.values:
            field_type = object if setting.words else setting.values
            default = FieldReference(default, field_type=field_type)
        (config[group] if group else config)[name] = default
    return config.lock()


def check(config: ConfigDict) -> None:
    """Refuses settings that are unknown, missing, of the wrong kind or out of range.

    Raises:
        InputError: the first wrong key, what is expected and what came.
    """
    values = dict(flat(config))
    for group in GROUPS:
        if group in values:
            raise InputError(f"{expected(group)}, got {values[group]!r}")
    for key in values:
        if key not in SETTINGS and not key.startswith(FACTORY_OPTIONS):
            raise InputError(unknown(key))
    for key, setting in SETTINGS.items():
        if key not in values:
            raise InputError(missing(key))
        try:
            allowed = setting.allows(values[key])
        except (TypeError, OverflowError):  # not comparable, or too large for a float
            allowed = False
        if not allowed:
            raise InputError(f"{expected(key)}, got {values[key]!r}")
    _check_together(values)


def flat(tree: ConfigDict | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the settings of a tree of groups: 'search.budget' and its value.

    Raises:
        InputError: a name that is no text, or a group that is within itself.
    """
    return _flat(tree, "", ())


def _flat(tree: Any, prefix: str, above: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    if any(tree is group for group in above):
        raise InputError(f"{prefix[:-1]}: expected a value, got a group that it is in")
    try:
        wrong = [key for key in tree if not isinstance(key, str)]
    except TypeError:  # ConfigDict sorts its keys
        wrong = ["a mixture"]
    if wrong:
        raise InputError(f"{prefix[:-1] or 'config'}: expected text as every key, got {wrong[0]}")
    # Items of a ConfigDict, not of to_dict(): that one turns tuples into lists.
    for key, value in tree.items():
        if isinstance(value, ConfigDict | Mapping):
            yield from _flat(value, f"{prefix}{key}.", (*above, tree))
        else:
            yield f"{prefix}{key}", value


def expected(key: str) -> str:
    """Says what a setting, or a group of them, must be: 'seed: expected a whole number …'."""
    if key in GROUPS:
        return f"{key}: expected a group of settings ({', '.join(GROUPS[key])})"
    return f"{key}: expected {SETTINGS[key].expected()}"


def unknown(key: str) -> str:
    """Says that there is no such setting, and which have nearly that name."""
    keys = [*GROUPS, *SETTINGS]
    near = dict.fromkeys(difflib.get_close_matches(key, keys, cutoff=0.7))
    ends = {known.rpartition(".")[2] for known in keys}
    for end in difflib.get_close_matches(key.rpartition(".")[2], ends):
        near |= dict.fromkeys(known for known in keys if known.rpartition(".")[2] == end)
    shown = list(near)[:5] or list(GROUPS)
    return f"unknown setting {key!r}; nearest: {', '.join(shown)}"


def missing(key: str) -> str:
    """Says that a config lacks a setting."""
    return f"setting {key} is missing; start from {START}"


def _check_together(values: Mapping[str, Any]) -> None:
    """Refuses values that do not go with each other."""
    from domino_jax.core.rules import require_rules  # noqa: PLC0415 (JAX, not for --help)

    _require_final_candidate(values)
    _require_pace(values)
    _require_shrinking(values)
    _require_reader(values)
    _require_smooth(values)
    for phase in ("dense", "train"):
        _require_short_warmup(values, phase)
    _require_rising(values)
    _require_torch_init(values)
    require_rules(values["search.rules"])


def _require_final_candidate(values: Mapping[str, Any]) -> None:
    m, candidates = values["search.m"], values["search.candidates"]
    if candidates not in (None, EVERY) and candidates[-1] != m:
        raise InputError(
            f"search.candidates: expected a last candidate of search.m = {m}, got {candidates}"
        )


def _require_pace(values: Mapping[str, Any]) -> None:
    weights = ("search.macs_weight", "search.erk_weight")
    if values["search.pace"] == "domino" and all(values[key] == 0 for key in weights):
        raise InputError(
            f"{' and '.join(weights)}: expected one above 0, or no layer ever decays; got 0 and 0"
        )


def _require_shrinking(values: Mapping[str, Any]) -> None:
    """Refuses decays that overshoot: a step would leave more of a weight than there was.

    A step takes rate·decay of a weight away; momentum bears twice as much as the 2 of plain SGD.
    """
    products: list[tuple[str, ...]] = [
        *(("dense.lr", "dense.weight_decay"), ("train.lr", "train.weight_decay")),
        ("train.lr", "train.sr_ste"),
    ]
    if values["search.method"] == "domino" and values["search.pace"] == "domino":
        for weight in ("search.erk_weight", "search.macs_weight"):
            given = (weight,) if values[weight] is not None else ()  # else below 1
            products.append(("search.lr", "search.penalty", *given))
    for keys in products:
        factors = [values[key] for key in keys]
        if math.prod(factors) > _MOST_DECAY:
            raise InputError(
                f"{' · '.join(keys)}: expected at most {_MOST_DECAY:g}, or weights grow with every "
                f"step; got {' · '.join(f'{factor:g}' for factor in factors)}"
            )


def _require_reader(values: Mapping[str, Any]) -> None:
    method, table = values["search.method"], values["search.table"]
    if table and method != "table" and ":" not in method:  # one of your own may read it
        raise InputError(
            f"search.table: expected search.method='table' to read {table!r}, got {method!r}"
        )


def _require_smooth(values: Mapping[str, Any]) -> None:
    from domino_jax.train.criteria import LOSSES  # noqa: PLC0415 (as above)

    smooths = ":" not in values["loss"] and LOSSES[values["loss"]].smooths
    for key in ("dense.label_smoothing", "train.label_smoothing"):
        if values[key] and not smooths:
            raise InputError(f"{key}: expected 0 of loss={values['loss']!r}, got {values[key]:g}")


def _require_rising(values: Mapping[str, Any]) -> None:
    begin, end = values["train.ramp_from"], values["train.ramp_until"]
    if begin >= end:
        raise InputError(
            f"train.ramp_from: expected less than train.ramp_until = {end:g}, got {begin:g}"
        )
    method, changed = values["train.method"], values["train.ramp"] or values["train.mask_every"] > 1
    if method in ("fixed", "none") and changed:
        raise InputError(
            "train.ramp, train.mask_every: expected '' and 1 where train.method is "
            f"{method!r}, which makes its masks once; got {values['train.ramp']!r} and "
            f"{values['train.mask_every']}"
        )


def _require_torch_init(values: Mapping[str, Any]) -> None:
    from domino_jax.pytorch.state_dict import SUFFIXES, is_torch_file  # noqa: PLC0415 (as above)

    if not values["init_head"] and not is_torch_file(values["init"]):
        raise InputError(
            f"init_head: False needs an init that ends in {' or '.join(SUFFIXES)}, "
            f"got {values['init']!r}"
        )


def _require_short_warmup(values: Mapping[str, Any], phase: str) -> None:
    warmup, epochs = values[f"{phase}.warmup_epochs"], values[f"{phase}.epochs"]
    if warmup > epochs > 0:
        raise InputError(
            f"{phase}.warmup_epochs: expected at most {phase}.epochs = {epochs:g}, got {warmup:g}"
        )

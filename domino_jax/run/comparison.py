"""Methods, trainers, budgets and seeds side by side: every cell a run of its own that resumes.

    folder/seed0/2of16_uniform_sr_ste/     a work directory, as search.py and train.py make it
    folder/compare.csv, front.png, map.png

One cell of a seed trains the dense network, and all others of that seed start from it. Losses that
one cell measured are taken over by those that would measure the same.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from domino_jax.allocate import measured
from domino_jax.core.amounts import parse_amount
from domino_jax.core.costs import as_fraction, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.files import json_text
from domino_jax.core.paths import require_known
from domino_jax.core.scheme import NM, load_document
from domino_jax.run import (
    comparison_dense,
    comparison_pictures,
    comparison_report,
    experiment,
    finetune,
    monitor,
    provenance,
    search,
    workdir,
)
from domino_jax.run.comparison_report import UNSTRUCTURED, Cell, Outcome
from domino_jax.run.settings import defaults, flat

Stop = Callable[[], bool]


def compare(
    config: ConfigDict, folder: Path, cells: Sequence[Cell], should_stop: Stop, *, metric: str
) -> None:
    """Runs every cell that is not done, then writes compare.csv and the pictures, and prints.

    A cell that cannot be run (its budget is out of reach, say) is named at the end; the others go
    on.

    Args:
        config: all settings; each cell changes seed, method, trainer, budget and init.
        folder: of the comparison.
        cells: what to run, those of a seed together.
        should_stop: asked before every step.
        metric: what the table and the front show: 'accuracy', 'loss' or 'top5'; '' is the accuracy
            where there is one, and else the loss.

    Raises:
        InputError: some cells could not be run: the first one and its reason; or a folder is where
            a file belongs.
        Stopped: it was asked to stop; the same call goes on.
    """
    workdir.require_files(folder, ("compare.csv", "front.png", "map.png"))
    outcomes: dict[Cell, Outcome] = {}
    starts: dict[int, Path | InputError | None] = {}  # seed -> dense network, or why there is none
    faults: list[str] = []
    began = time.monotonic()
    place_of = functools.partial(_place, folder)
    with monitor.progress("comparison", len(cells), 0, unit="") as show:
        for number, cell in enumerate(comparison_dense.in_order(cells, place_of)):
            place, start = place_of(cell), starts.get(cell.seed)
            show(number, f"{_left(began, number, len(cells))}{place}")
            own = _config_of(config, cell, start if isinstance(start, Path) else None)
            try:
                if isinstance(start, InputError):
                    raise start
                _run(own, cell, place, should_stop)
            except (InputError, FloatingPointError) as error:
                faults.append(f"{place}: {error}")
                monitor.say(faults[-1])
                starts[cell.seed] = start or comparison_dense.after_fault(own, place, error)
                continue
            starts[cell.seed] = start or place / comparison_dense.FOLDER
            outcomes[cell] = _outcome(cell, place)
            metric = _metric(metric, outcomes[cell])
            jax.clear_caches()  # of a network that no other cell has
        show(len(cells), "")
    if outcomes:
        _show(config, folder, [outcomes[cell] for cell in cells if cell in outcomes], metric)
    if faults:
        raise InputError(f"{len(faults)} of {len(cells)} cells could not be run; {faults[0]}")


def _metric(wanted: str, outcome: Outcome) -> str:
    """Returns what is shown: asked after the first cell, not after the last."""
    known = list(outcome.metrics["dense"])
    if not wanted:
        return "accuracy" if "accuracy" in known else "loss"
    require_known([wanted], known, what="metric")
    return wanted


def cells_of(
    seeds: int, budgets: Sequence[str], methods: Sequence[str], trainers: Sequence[str]
) -> list[Cell]:
    """Lists all cells, those of a seed together.

    Raises:
        InputError: nothing to compare, or a budget that is neither a share nor N:M.
    """
    for name, values in (("budgets", budgets), ("methods", methods), ("trainers", trainers)):
        if not values:
            raise InputError(f"--{name}: expected at least one, got none")
    if seeds < 1:
        raise InputError(f"--seeds: expected 1 or more, got {seeds}")
    for budget in budgets:
        _require_budget(budget)
    return [Cell(*parts) for parts in itertools.product(range(seeds), budgets, methods, trainers)]


def share_of(budget: str, layers: Any, cost: Any) -> float | str:
    """Returns the share that a budget means: itself, or what that N:M in every layer costs.

    Never less than that cost, also after rounding.
    """
    if ":" not in budget:
        return _share(budget)
    nm = NM.parse(budget)
    dense = total_cost(layers, cost)
    wrong = next((layer for layer in layers if layer.groups and layer.m % nm.m), None)
    if wrong is not None:
        raise InputError(
            f"--budgets: expected an N:M whose M divides {wrong.m} (of {wrong.name}), got {budget}"
        )
    scheme = {layer.name: NM(nm.n * layer.m // nm.m, layer.m) for layer in layers if layer.groups}
    share = float(Fraction(total_cost(layers, cost, scheme)) / dense)
    exact = as_fraction(share) * dense
    return share if exact >= total_cost(layers, cost, scheme) else math.nextafter(share, 1.0)


def _share(budget: str) -> float | str:
    """Returns a share as `search.budget` takes it: '1/3' is no decimal, and stays what it is."""
    try:
        return float(budget)
    except ValueError:
        return budget


def _require_budget(budget: str) -> None:
    try:
        right = bool(NM.parse(budget)) if ":" in budget else parse_amount(budget).is_share
    except ValueError:
        right = False
    if not right:
        raise InputError(
            "--budgets: expected a share above 0 and below 1, also as '25%' or '1/4', or N:M, got "
            f"{budget!r}"
        )


def _place(folder: Path, cell: Cell) -> Path:
    """Returns the work directory of a cell."""
    return folder / f"seed{cell.seed}" / _name(cell)


def _name(cell: Cell) -> str:
    budget = cell.budget.replace(":", "of").replace("/", "over")
    parts = (budget, cell.method, cell.trainer)
    return "_".join(part.replace(":", ".").replace("/", ".") for part in parts)


def _left(began: float, done: int, total: int) -> str:
    """Says how long the other cells may take, once one of this call is done."""
    if not done:
        return ""
    seconds = (time.monotonic() - began) / done * (total - done)
    return f"about {seconds / 60:.0f} minutes left  "


def _config_of(config: ConfigDict, cell: Cell, dense: Path | None) -> ConfigDict:
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.seed = cell.seed
        own.search.method = cell.method.removeprefix(UNSTRUCTURED)
        if cell.method.startswith(UNSTRUCTURED):
            own.train.pattern = "unstructured"
        own.train.method = cell.trainer
        own.init = own.init.replace("{seed}", str(cell.seed)) or str(dense or "")
    return own


def _run(config: ConfigDict, cell: Cell, place: Path, should_stop: Stop) -> None:
    """Searches and trains, unless both are done under these settings."""
    if _is_done(config, cell, place):
        return
    with workdir.taken(place), _quiet():
        exp = experiment.build(config, place, should_stop)
        with config.unlocked(), config.search.ignore_type():  # also "1/3"
            config.search.budget = share_of(cell.budget, exp.layers, exp.budget.cost)
        exp = experiment.build(config, place, should_stop)  # now with that budget
        search.find_scheme(exp, losses=_losses_of_another(exp))
        finetune.train_scheme(experiment.build(config, place, should_stop))


def _losses_of_another(exp: experiment.Experiment) -> Path | None:
    """Finds the losses that another cell of the seed measured under the same settings."""
    settings = _of_table(exp.config.to_dict())
    for losses in sorted(exp.workdir.parent.glob(f"*/{measured.FILE}")):
        scheme = losses.with_name("scheme.json")
        document = load_document(scheme) if scheme.exists() else {}
        there, prints = document.get("config"), document.get("fingerprints")
        if not isinstance(there, Mapping) or not isinstance(prints, Mapping):
            continue
        if prints.get(provenance.DATA) == exp.data.fingerprint and _of_table(there) == settings:
            return losses
    return None


def _of_table(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that a loss table depends on, besides the dense weights."""
    free = ("train.", "dense.", "init", "search.budget")
    return {key: value for key, value in _by_key(settings).items() if not key.startswith(free)}


def _is_done(config: ConfigDict, cell: Cell, place: Path) -> bool:
    results = workdir.read_json(place / "results.json")
    if not {"search", "train"} <= results.keys() or not (place / "scheme.json").exists():
        return False
    config_there = load_document(place / "scheme.json").get("config")
    saved = _by_key(config_there if isinstance(config_there, Mapping) else {})
    budget = saved["search.budget"]  # that of N:M is known only where the layers are
    return saved == {**_by_key(config.to_dict()), "search.budget": budget} and (
        ":" in cell.budget or budget == _share(cell.budget)
    )


def _by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns key -> value, as JSON has it, of the settings that results depend on.

    A setting that an older config lacks had the value that is its default today.
    """
    values = dict(flat(defaults())) | dict(flat(settings))
    plain = {key: value for key, value in values.items() if key not in provenance.FREE}
    return dict(json.loads(json_text(plain)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the tables of a single run off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _outcome(cell: Cell, place: Path) -> Outcome:
    """Reads what a cell has come to.

    Raises:
        InputError: its results.json has another form than we write.
    """
    path = place / "results.json"
    results = workdir.read_json(path)
    try:
        outcome = _of_results(cell, results)
        tables = (outcome.kept, *outcome.metrics.values())
        fits = all(workdir.is_number(value) for table in tables for value in table.values())
    except (KeyError, TypeError, AttributeError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: expected the results of a search and a training, got others; remove {place} "
            "and start the same command again"
        )
    return outcome


def _of_results(cell: Cell, results: Mapping[str, Any]) -> Outcome:
    totals, train = results["search"]["totals"], results["train"]
    rows = results["search"]["layers"]
    final = train.get("tuned", train.get("updated"))
    stages = {
        "dense": train["dense"],
        "masked": train.get("recalibrated", train["masked"]),
        **({"tuned": final} if final else {}),
    }
    counted = [row for row in rows if row["counted"]]
    nm = {row["name"]: NM.parse(row["nm"]) if row["nm"] else NM(1, 1) for row in counted}
    return Outcome(
        cell,
        {name: totals[name]["share"] for name in ("cost", "weights", "macs")},
        stages,
        {name: (each.n, each.m) for name, each in nm.items()},
    )


def _show(config: ConfigDict, folder: Path, outcomes: Sequence[Outcome], metric: str) -> None:
    seeds = len({outcome.cell.seed for outcome in outcomes})
    title = f"{config.model.name} on {config.data.name}, {seeds} seed{'s' * (seeds > 1)}"
    comparison_report.write_csv(folder / "compare.csv", outcomes)
    comparison_pictures.draw_front(folder / "front.png", outcomes, metric, title)
    comparison_pictures.draw_map(folder / "map.png", outcomes, f"{title}: N kept of every M")
    monitor.console().print(comparison_report.table(outcomes, metric))
    monitor.say(f"{folder}: compare.csv, front.png, map.png")

"""What search.py does: dense weights in, scheme.json, report.png and the table out."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from domino_jax.allocate.domino import Search, by_layer, domino, scheme_of
from domino_jax.allocate.erk import erk_scheme
from domino_jax.allocate.pace import PACES, PaceRule
from domino_jax.allocate.stall import layer_norms, why_stuck
from domino_jax.allocate.uniform import dense_scheme, uniform_scheme
from domino_jax.core import costs, scheme
from domino_jax.core.scheme import Scheme
from domino_jax.run import checks, monitor, provenance, report, workdir
from domino_jax.run.dense import dense_weights, train_dense
from domino_jax.run.experiment import OBJECTIVES, Experiment, forward_of, versions
from domino_jax.run.phases import resume, running
from domino_jax.run.steps import search_parts
from domino_jax.trace.activations import activation_macs
from domino_jax.train import loop

# Methods that need no training: (layers, budget, cost=) -> scheme.
AT_ONCE: Mapping[str, Callable[..., Scheme]] = {
    "dense": lambda layers, budget, cost: dense_scheme(layers),
    "uniform": uniform_scheme,
    "erk": erk_scheme,
}


def find_scheme(exp: Experiment, *, anew: bool = False) -> None:
    """Finds a scheme by the method of the config, and writes and prints it.

    Goes on from what the work directory holds, or forgets it first if `anew`.

    Raises:
        InputError: the budget is out of reach, the search stands still, or the work directory was
            made with other settings.
    """
    settings = exp.config.search
    if settings.method in AT_ONCE:
        found = AT_ONCE[settings.method](exp.layers, settings.budget, cost=exp.cost)
        provenance.begin_search(exp.workdir, exp.config, data=exp.data.fingerprint, anew=anew)
        with workdir.writing(exp.workdir):
            _write(exp, found, steps=0)
        return
    checks.require_votes(settings, exp.layers, exp.cost)
    search = domino(
        exp.layers,
        settings.budget,
        cost=exp.cost,
        vote_ratio=settings.vote_ratio,
        pace=_pace(exp),
    )
    provenance.begin_search(exp.workdir, exp.config, data=exp.data.fingerprint, anew=anew)
    train_dense(exp)
    run = _search(exp, search, *dense_weights(exp))
    found, steps = scheme_of(exp.layers, run.search), int(run.train.step)
    with workdir.writing(exp.workdir):
        _end_curve(exp, found, steps)
        _write(exp, found, steps=steps)


def _pace(exp: Experiment) -> PaceRule:
    settings = exp.config.search
    by_weights = settings.objective == "params"
    defaults = (0.5, 0.5) if by_weights else (0.8, 0.2)
    given = (settings.macs_weight, settings.erk_weight)
    cost_weight, erk_weight = (
        default if value is None else value for value, default in zip(given, defaults, strict=True)
    )
    return PACES[settings.pace](
        exp.layers,
        settings.budget,
        cost=costs.macs if settings.objective in OBJECTIVES else exp.cost,
        macs_weight=cost_weight,
        erk_weight=erk_weight,
    )


def _search(exp: Experiment, search: Search, params: Any, stats: Any) -> loop.SearchRun:
    phase, settings = exp.phase("search"), exp.config.search
    norms = layer_norms(exp.layers)
    start_norms = norms(_on_device(params))
    tx, step = search_parts(exp)
    run = resume(
        phase,
        loop.SearchRun(loop.init_state(params, stats, tx), search.init(_on_device(params))),
    )
    start = int(run.train.step)
    if run.search.done:
        return run
    curve = phase.folder / workdir.CURVE
    phase.folder.mkdir(exist_ok=True)
    workdir.resume_curve(curve, start)

    def share(run: loop.SearchRun) -> float:
        return costs.share(exp.layers, exp.cost, scheme_of(exp.layers, run.search))

    def describe(step: int, run: loop.SearchRun) -> tuple[str, dict[str, float]]:
        now = share(run)
        workdir.append_point(curve, {"step": step, "share": now})
        n = {f"n/{name}": float(n) for name, n in by_layer(exp.layers, run.search.n).items()}
        return f"cost {now:.4f} -> {settings.budget:g}", {"share": now, **n}

    def stuck(run: loop.SearchRun) -> str:
        why = why_stuck(
            exp.layers, run.search, norms(run.train.params), start_norms, settings.patience
        )
        return why and f"{why}; cost {share(run):.4f} of dense, budget {settings.budget:g}"

    with running(phase, "search", start=start, steps=settings.max_steps, describe=describe) as (
        batches,
        hooks,
    ):
        return loop.run_search(
            step,
            search,
            run,
            batches,
            phase.key,
            vote_every=settings.vote_every,
            max_steps=settings.max_steps,
            stuck=stuck,
            hooks=hooks,
        )


def _end_curve(exp: Experiment, found: Scheme, steps: int) -> None:
    """Makes the scheme's cost the last point, also where the run was killed after writing it."""
    curve = exp.workdir / "search" / workdir.CURVE
    workdir.resume_curve(curve, steps - 1)
    workdir.append_point(curve, {"step": steps, "share": costs.share(exp.layers, exp.cost, found)})


def _on_device(params: Any) -> Any:
    return jax.tree.map(jnp.asarray, params)


def _write(exp: Experiment, found: Scheme, *, steps: int) -> None:
    settings = exp.config.search
    numbers = report.summary(
        exp.layers,
        found,
        exp.cost,
        settings.budget,
        activations=activation_macs(forward_of(exp.model), exp.model.params, exp.data.example),
    )
    scheme.save(
        exp.workdir / "scheme.json",
        found,
        model=exp.config.model.name,
        objective=settings.objective,
        budget=settings.budget,
        achieved=numbers["totals"]["cost"]["share"],
        steps=steps,
        config=exp.config.to_dict(),
        versions=versions(),
    )
    workdir.update_json(exp.workdir / "results.json", search={"steps": steps, **numbers})
    report.plot(
        exp.workdir / "report.png",
        numbers,
        workdir.read_curve(exp.workdir / "search" / workdir.CURVE),
        f"{exp.config.model.name} on {exp.config.data.name}: N of M = {_sizes(found)} under "
        f"{settings.budget:.2%} of {settings.objective}",
        settings.budget,
    )
    report.print_table(numbers, settings.objective, settings.budget, monitor.console())
    monitor.say(f"{exp.workdir}: scheme.json, report.png; next: train.py with the same flags")


def _sizes(found: Scheme) -> str:
    """Lists the group sizes of a scheme: rules may give layers their own."""
    return ", ".join(map(str, sorted({nm.m for nm in found.values()}, reverse=True)))

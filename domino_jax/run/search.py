"""What search.py does: dense weights in, scheme.json, report.png and the table out."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from domino_jax.allocate.calibration import guarded_scheme, refuse_early
from domino_jax.allocate.finish import finished, magnitude_table
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.search import Search, by_layer, scheme_of
from domino_jax.allocate.stall import layer_norms, why_stuck
from domino_jax.allocate.table import allocate
from domino_jax.core import costs
from domino_jax.core.errors import InputError
from domino_jax.core.scheme import Scheme, save
from domino_jax.run import checks, cluster, monitor, provenance, report, workdir
from domino_jax.run.experiment import Experiment, forward_of, versions
from domino_jax.run.phases import resume, running
from domino_jax.run.problem import problem_of
from domino_jax.run.steps import search_parts
from domino_jax.trace.activations import activation_macs
from domino_jax.train import loop
from domino_jax.train.step import first_state


def find_scheme(exp: Experiment, *, anew: bool = False, losses: Path | None = None) -> None:
    """Finds a scheme by the method of the config, and writes and prints it.

    Goes on from what the work directory holds, or forgets it first if `anew`. A method that
    measures losses takes those in the file `losses`, of another run, where it measured none itself;
    what was measured on other weights or batches counts as nothing.

    Raises:
        InputError: the budget is out of reach, the search stands still, or the work directory was
            made with other settings.
    """

    @cache  # what is wrong with the budget is said before the work directory is touched
    def begin() -> None:
        provenance.begin_search(exp.workdir, exp.config, data=exp.data.fingerprint, anew=anew)

    notes: dict[str, Any] = {}
    problem, settings = problem_of(exp, begin, notes.__setitem__, losses), exp.config.search
    compares = settings.guard != "none" or settings.refine > 0
    if compares:
        refuse_early(problem)
    answer = allocate(exp.config.search.method, problem)
    if isinstance(answer, Search):
        checks.require_wide(exp.model.params)
        checks.require_filled(exp.config, exp.data, "search")
        checks.require_votes(exp.config.search, answer.fewest_votes)
        scheme, steps = _searched(exp, answer, problem)
    else:
        scheme, steps = answer, 0
    if compares and "trials" not in notes:  # the methods by loss have compared theirs
        scheme = guarded_scheme(problem, scheme, settings.method)
    begin()
    with workdir.writing(exp.workdir):
        if isinstance(answer, Search):
            _end_curve(exp, scheme, steps)
        _write(exp, scheme, steps=steps, notes=notes)


def _searched(exp: Experiment, search: Search, problem: Problem) -> tuple[Scheme, int]:
    """Trains and votes until the search is done; returns its scheme and the steps made.

    The scheme uses the budget up; that of a search that stands still near its budget too.
    """
    params, stats = problem.weights()
    losses = magnitude_table(exp.layers, params)

    def end(run: loop.SearchRun) -> tuple[Scheme, int] | None:
        before = scheme_of(exp.layers, run.search)
        after = finished(exp.layers, before, problem.budgets, losses)
        if after is None:
            return None
        _say_finish(exp, before, after)
        return after, int(run.train.step)

    try:
        answer = end(_search(exp, search, params, stats))
    except loop.Stuck as error:
        answer = end(_last(exp, search, params, stats))
        if answer is None:
            raise
        monitor.say(f"that search stood still near its budget: {error}")
    if answer is None:
        raise InputError("search.method: expected a search that ends within its budget, got none")
    return answer


def _say_finish(exp: Experiment, before: Scheme, after: Scheme) -> None:
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        was, now = (costs.kept_share(exp.layers, exp.budget.cost, each) for each in (before, after))
        monitor.say(
            f"exact finish: {len(changed)} of {len(before)} layers keep "
            f"{'more' if now > was else 'fewer'} weights, {was:.4f} -> {now:.4f} of dense"
        )


def _last(exp: Experiment, search: Search, params: Any, stats: Any) -> loop.SearchRun:
    """Returns the last saved state of the search, or that before its first step."""
    first = search_parts(exp).trainer.init(params, None)
    start = first_state(params, stats, first.state)
    return resume(exp.phases["search"], loop.SearchRun(start, search.init(params)))


def _search(exp: Experiment, search: Search, params: Any, stats: Any) -> loop.SearchRun:
    phase, settings = exp.phases["search"], exp.config.search
    norms = layer_norms(exp.layers)
    start_norms = norms(params)
    _, step = search_parts(exp)
    run = _last(exp, search, params, stats)
    start = int(run.train.step)
    phase.folder.mkdir(exist_ok=True)
    if run.search.done:
        return run
    curve = phase.folder / workdir.CURVE
    workdir.resume_curve(curve, start)

    def share(run: loop.SearchRun) -> float:
        return costs.kept_share(exp.layers, exp.budget.cost, scheme_of(exp.layers, run.search))

    def describe(step: int, run: loop.SearchRun) -> tuple[str, dict[str, float]]:
        now = share(run)
        workdir.append_point(curve, {"step": step, "share": now})
        n = {f"n/{name}": float(n) for name, n in by_layer(exp.layers, run.search.n).items()}
        return f"cost {now:.4f} -> {exp.budget.share:g}", {"share": now, **n}

    def reason_to_stop(run: loop.SearchRun) -> str:
        reason = why_stuck(
            exp.layers, run.search, norms(run.train.params), start_norms, settings.patience
        )
        return reason and f"{reason}; cost {share(run):.4f} of dense, budget {exp.budget.share:g}"

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
            stuck=reason_to_stop,
            hooks=hooks,
        )


def _end_curve(exp: Experiment, scheme: Scheme, steps: int) -> None:
    """Makes the scheme's cost the last point, also where the run was killed after writing it."""
    curve = exp.workdir / "search" / workdir.CURVE
    workdir.resume_curve(curve, steps - 1)
    workdir.append_point(
        curve, {"step": steps, "share": costs.kept_share(exp.layers, exp.budget.cost, scheme)}
    )


def _write(exp: Experiment, scheme: Scheme, *, steps: int, notes: Mapping[str, Any]) -> None:
    settings = exp.config.search
    numbers = report.summary(
        exp.layers,
        scheme,
        exp.budget,
        beside=dict(zip([name for name, _ in settings.budgets], exp.beside, strict=True)),
        activations=activation_macs(forward_of(exp.model), exp.model.params, exp.data.example),
    )
    if not cluster.is_first():
        return
    save(
        exp.workdir / "scheme.json",
        scheme,
        model=exp.config.model.name,
        objective=settings.objective,
        budget=exp.budget.share,
        achieved=numbers["totals"]["cost"]["share"],
        steps=steps,
        config=exp.config.to_dict(),
        fingerprints=provenance.fingerprints(exp.config, exp.data.fingerprint),
        versions=versions(),
    )
    workdir.update_json(exp.workdir / "results.json", search={"steps": steps, **numbers, **notes})
    report.plot(
        exp.workdir / "report.png",
        numbers,
        workdir.read_curve(exp.workdir / "search" / workdir.CURVE),
        f"{exp.config.model.name} on {exp.config.data.name}: N of M = {_sizes(scheme)} under "
        f"{exp.budget.share:.2%} of {settings.objective}",
        exp.budget.share,
    )
    report.print_table(numbers, settings.objective, exp.budget.share, monitor.console())
    monitor.say(f"{exp.workdir}: scheme.json, report.png; next: train.py with the same flags")


def _sizes(scheme: Scheme) -> str:
    """Lists the group sizes of a scheme: rules may give layers their own."""
    return ", ".join(map(str, sorted({nm.m for nm in scheme.values()}, reverse=True)))

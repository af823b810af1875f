"""The allocators by name: a problem in; a scheme, or the search that finds one, out.

One of your own is 'package.module:function', a function that takes a `Problem`; and an entry here
makes it ours. A module is imported when its allocator is asked for.
"""

from collections.abc import Mapping

from domino_jax.allocate.exact import require_together
from domino_jax.allocate.problem import Allocator, Problem
from domino_jax.allocate.search import Search
from domino_jax.core.costs import shown, total_cost
from domino_jax.core.errors import InputError
from domino_jax.core.factories import explained, find_factory
from domino_jax.core.kernels import n_by_path
from domino_jax.core.scheme import Scheme

ALLOCATORS: Mapping[str, str] = {
    "domino": "domino_jax.allocate.domino:allocate",
    "uniform": "domino_jax.allocate.uniform:allocate",
    "erk": "domino_jax.allocate.erk:allocate",
    "dense": "domino_jax.allocate.dense:allocate",
    "instant": "domino_jax.allocate.instant:allocate",
    "sensitivity": "domino_jax.allocate.sensitivity:allocate",
    "fisher": "domino_jax.allocate.fisher:allocate",
    "kdiag": "domino_jax.allocate.kdiag:allocate",
    "kronecker": "domino_jax.allocate.kronecker:allocate",
    "table": "domino_jax.allocate.from_table:allocate",
}


def allocator(name: str) -> Allocator:
    """Finds an allocator; nothing is allocated.

    Raises:
        InputError: the name is unknown, or the function cannot be imported.
    """
    return find_factory(name, ALLOCATORS, what="allocator")


def allocate(name: str, problem: Problem) -> Scheme | Search:
    """Returns the scheme that an allocator gives a problem, or its search.

    Raises:
        InputError: as `allocator`; what the allocator refuses; whatever one of your own raises, or
            the search that it returns; or what it returns is neither a search nor a scheme of these
            layers.
    """
    find = allocator(name)
    if problem.beside:
        require_together(problem.layers, problem.budgets)
    answer = find(problem)
    if isinstance(answer, Search):
        return _explained(name, answer) if ":" in name else answer
    if not isinstance(answer, Mapping):
        raise InputError(
            f"allocator {name!r}: expected a scheme {{layer: NM}} or a Search, got a "
            f"{type(answer).__name__}"
        )
    try:
        n_by_path(answer, problem.layers)
    except InputError as error:
        raise InputError(f"allocator {name!r}: {error}") from None
    for budget in problem.beside:
        spent = total_cost(problem.layers, budget.cost, answer)
        if spent > budget.allowed:
            raise InputError(
                f"search.budgets: expected () with the allocator {name!r}, which knows one budget "
                f"at most: its scheme costs {shown(spent)}, and {shown(budget.allowed)} are allowed"
            )
    return answer


def _explained(name: str, search: Search) -> Search:
    init, update = (explained(each, name, what="allocator") for each in search[:2])
    return search._replace(init=init, update=update)

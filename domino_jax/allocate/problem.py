"""What an allocator may ask for."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from domino_jax.allocate.search import Search
from domino_jax.core.costs import Budget
from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.scheme import Scheme
from domino_jax.trace.example import examples_in

Batch = Mapping[str, jax.Array]
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int, str], None]]]


class Weights(NamedTuple):
    """Those of the dense network.

    Attributes:
        params: parameter pytree.
        stats: batch statistics, {} if there are none.
    """

    params: Any
    stats: Any


def _nothing_here(*_: Any) -> Any:
    raise InputError(
        "this allocator needs weights, a loss or batches: expected a Problem with them, got one of "
        "layers and a budget alone"
    )


def _no_progress(title: str, pieces: int, before: int) -> Any:
    del title, pieces, before
    return nullcontext(lambda done, text: None)


class Problem(NamedTuple):
    """A network and its budget; what costs time is a function, and only its call spends it.

    An allocator that asks for no weights leaves the dense network untrained. Weights and batches
    lie on the devices of the run.

    Attributes:
        layers: of the network, in the order of their first use.
        budget: what the scheme may cost; whether the candidates allow it, `reach` says.
        beside: further budgets that hold too.
        options: settings of the search by name, plain values; each allocator reads its own.
        weights: () -> the dense network, trained if it is not.
        loss: (params, stats, batch) -> mean loss of a batch at the running statistics.
        training_loss: (params, stats, batch) -> the same at the batch's own statistics.
        labels_of: batch -> over how many labels its mean loss goes: of a text over many an example.
        batches: (first, count) -> batches first .. first + count - 1 of a fixed order of the
            training data; the same ones at every call.
        should_stop: asked between pieces of long work.
        progress: (title, pieces, done before) -> a context that gives show(pieces done, text);
            show raises where the run was asked to stop, so what is done is kept before.
        keep: (name of a file, text) -> None; what an allocator wants to find again.
        recall: name of a file -> the text that was kept, None if there is none.
        say: takes a line of what was found, for a person.
        note: (name, plain JSON value) -> None; what belongs to the results of the search.
    """

    layers: tuple[LayerSpec, ...]
    budget: Budget
    options: Mapping[str, Any] = MappingProxyType({})
    weights: Callable[[], Weights] = _nothing_here
    loss: Callable[[Any, Any, Batch], jax.Array] = _nothing_here
    training_loss: Callable[[Any, Any, Batch], jax.Array] = _nothing_here
    labels_of: Callable[[Batch], jax.Array | int] = examples_in
    batches: Callable[[int, int], Iterable[Batch]] = _nothing_here
    should_stop: Callable[[], bool] = lambda: False
    progress: Progress = _no_progress
    keep: Callable[[str, str], None] = lambda name, text: None
    recall: Callable[[str], str | None] = lambda name: None
    say: Callable[[str], None] = lambda line: None
    note: Callable[[str, Any], None] = lambda name, value: None
    beside: tuple[Budget, ...] = ()

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All that a scheme must meet."""
        return (self.budget, *self.beside)


Allocator = Callable[[Problem], Scheme | Search]

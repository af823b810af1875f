"""What a way of training is: four functions; and how an optax transform becomes one."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import optax

from domino_jax.core.errors import InputError
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import MakeMasks, apply_masks, make_masks
from domino_jax.train.masking import through_masks

Show = Callable[[int, str], None]  # of the pieces done, and a text


def _shows_nothing(title: str, pieces: int) -> AbstractContextManager[Show]:
    del title, pieces
    return nullcontext(lambda done, text: None)


class Start(NamedTuple):
    """Where a training starts.

    Attributes:
        params: float32 master weights.
        target: what stays the same in all steps, such as n or masks; traced, and not saved: a run
            that goes on makes it anew.
        state: what `update` changes besides the weights; saved with them.
    """

    params: Any
    target: Any
    state: Any


class Trainer(NamedTuple):
    """A way of training a network to its N:M; four pure functions, of which a step jits two.

    Attributes:
        init: (dense params, n by path) -> `Start`.
        forward: (params, state, target) -> (what the loss sees, what `update` wants to know of
            it, such as the masks). It is differentiated: what it lets through, a gradient reaches.
        update: (grads, params, state, target, what forward handed on) -> (params, state); None
            where there is nothing to train.
        finish: (params, state, target) -> params with exactly n nonzeros of every M at the most.
        soft: whether the loss may see more than n of M: then `finish` loses something, a run
            reports it, and an unfinished training is no n:m network yet.
    """

    init: Callable[[Any, Any], Start]
    forward: Callable[[Any, Any, Any], tuple[Any, Any]]
    update: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]] | None
    finish: Callable[[Any, Any, Any], Any]
    soft: bool = False


def _nothing_here(*_: Any) -> Any:
    raise InputError(
        "this trainer looks at data before it trains: expected a Training with a loss and batches, "
        "got one without"
    )


class Training(NamedTuple):
    """What a trainer is made for.

    Attributes:
        layers: of the network, in the order of their first use.
        steps: how many will be made.
        rate: step -> learning rate.
        options: settings of the training by name, plain values; each trainer reads its own.
        make_masks: (params, layers, n) -> masks: the pattern of the zeros.
        batches: () -> a few fixed batches of the training data; reading begins when they are gone
            through, but too many are refused at once.
        loss: (params, batch) -> mean loss of such a batch, at the batch statistics of the network
            that the training starts from.
        say: takes a line of what was found, for a person.
        progress: (title, pieces) -> a context that yields show(pieces done, text).
    """

    layers: tuple[LayerSpec, ...]
    steps: int
    rate: optax.Schedule
    options: Mapping[str, Any]
    make_masks: MakeMasks = make_masks
    batches: Callable[[], Iterable[Any]] = _nothing_here
    loss: Callable[[Any, Any], jax.Array] = _nothing_here
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[str, int], AbstractContextManager[Show]] = _shows_nothing


Update = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]


def update_by(
    tx: optax.GradientTransformation,
    extra_of: Callable[[Any], Mapping[str, Any]] = lambda target: {},
) -> Update:
    """Makes the update of an optax transform, with extra arguments: masks, and those of a target.

    Args:
        tx: may take the extra arguments, or not.
        extra_of: target -> further extra arguments by name.
    """
    tx = optax.with_extra_args_support(tx)

    def update(grads: Any, params: Any, state: Any, target: Any, masks: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, masks=masks, **extra_of(target))
        return optax.apply_updates(params, updates), state

    return update


def dense_trainer(tx: optax.GradientTransformation) -> Trainer:
    """Trains all weights as they are; its target is None."""
    return Trainer(
        init=lambda params, target: Start(params, target, tx.init(params)),
        forward=lambda params, state, target: (params, {}),
        update=update_by(tx),
        finish=lambda params, state, target: params,
    )


def search_trainer(tx: optax.GradientTransformation, layers: Iterable[LayerSpec]) -> Trainer:
    """Trains at the masks of a search; its target is {'n', 'pace'}.

    The gradient reaches the survivors only; the pace goes to `transforms.survivor_decay`.
    """
    layers = tuple(layers)

    def forward(params: Any, state: Any, target: Any) -> tuple[Any, Any]:
        del state
        masks = make_masks(jax.lax.stop_gradient(params), layers, target["n"])
        return apply_masks(params, masks), masks

    return Trainer(
        init=lambda params, target: Start(params, target, tx.init(params)),
        forward=forward,
        update=update_by(tx, lambda target: {"pace": target["pace"]}),
        finish=lambda params, state, target: keep_largest(params, layers, target["n"]),
    )


def through_trainer(
    tx: optax.GradientTransformation,
    layers: Iterable[LayerSpec],
    make_masks: MakeMasks = make_masks,
) -> Trainer:
    """Trains straight through masks that each step takes anew; its target is n.

    The gradient at the masked weights reaches all weights.
    """
    layers = tuple(layers)

    def forward(params: Any, state: Any, n: Any) -> tuple[Any, Any]:
        del state
        masks = make_masks(jax.lax.stop_gradient(params), layers, n)
        return through_masks(params, masks), masks

    return Trainer(
        init=lambda params, n: Start(params, n, tx.init(params)),
        forward=forward,
        update=update_by(tx),
        finish=lambda params, state, n: keep_largest(params, layers, n, make_masks),
    )


def keep_largest(
    params: Any, layers: Iterable[LayerSpec], n: Any, make_masks: MakeMasks = make_masks
) -> Any:
    """Sets all but the n largest of every M (or those of another pattern) to zero, compiled."""
    layers = tuple(layers)
    return jax.jit(lambda params: apply_masks(params, make_masks(params, layers, n)))(params)

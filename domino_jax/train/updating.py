"""Sparse without gradients: weights that stay make up for those that go, layer after layer."""

from typing import Any

from domino_jax.allocate.search import as_scheme, by_layer
from domino_jax.allocate.update import update_weights
from domino_jax.core.layers import LayerSpec
from domino_jax.core.masked import make_masks
from domino_jax.train.scored import masks_once
from domino_jax.train.trainer import Trainer, Training
from domino_jax.train.trainers import no_trainer


def update_trainer(training: Training) -> Trainer:
    """Trains nothing: `update_weights` of the weights at the start is the result.

    The masks go by the option 'score'; without one the update chooses them itself, where the
    pattern is N:M.
    """
    layers = training.layers
    training.batches()  # too many are refused before a network is trained
    chooses = not training.options.get("score") and training.make_masks is make_masks
    masks_of = masks_once(training)

    def tell(layer: LayerSpec, reason: str) -> None:
        training.say(f"{layer.name} is masked and not updated, its inputs cannot be seen: {reason}")

    def finish(params: Any, state: Any, n: Any) -> Any:
        del state
        scheme = as_scheme(layers, by_layer(layers, n))
        pruned = sum(nm.n < nm.m for nm in scheme.values())
        with training.progress("update", pruned) as show:
            return update_weights(
                layers,
                params,
                scheme,
                training.loss,
                list(training.batches()),
                masks=None if chooses else masks_of(params, n),
                untapped=tell,
                report=lambda done: show(done, ""),
            )

    return no_trainer(training)._replace(finish=finish)

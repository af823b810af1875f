"""Which weights of a group stay, by name: scores, the largest of which a mask keeps.

One of your own is 'package.module:function', a function (layers, params, loss, batches) -> scores;
and an entry here makes it ours. A module is imported when its rule is asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.factories import find_factory
from domino_jax.core.layers import LayerSpec

Scores = Mapping[str, jax.Array]  # path -> one for each weight; a kernel without goes by magnitude

SCORES: Mapping[str, str] = {
    "magnitude": "domino_jax.allocate.score_rules:magnitude",
    "wanda": "domino_jax.allocate.score_rules:wanda",
    "fisher": "domino_jax.allocate.score_rules:fisher",
}


def make_scores(
    name: str,
    layers: Iterable[LayerSpec],
    params: Any,
    loss: Callable[[Any, Any], jax.Array],
    batches: Iterable[Any],
) -> Scores:
    """Makes the scores that `make_masks` takes.

    Args:
        name: 'magnitude': |w|; 'wanda': |w| times the norm of its input, the root of E[x²] (Sun et
            al., 2023); 'fisher': w² F; or 'package.module:function'.
        layers: as `find_layers` gives them.
        params: of the dense network.
        loss: (params, batch) -> mean loss over the examples, which do not depend on each other.
        batches: leaves [B, ...], of one shape; 'magnitude' looks at none.

    Raises:
        InputError: an unknown name, a layer that cannot be tapped, or a score below 0.
    """
    scores = find_factory(name, SCORES, what="score")(tuple(layers), params, loss, batches)
    for path, of_kernel in scores.items():
        least = float(np.min(of_kernel))
        if not least >= 0:
            raise InputError(f"score {name!r}: {path}: expected scores of 0 or more, got {least}")
    return scores

"""Channels of the dense network in a better order for N:M, where the trace proves that it may."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from domino_jax.allocate.uniform import uniform_nm
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import kernels, n_by_path
from domino_jax.core.permute import consumers, permute_channels, reordered, why_not
from domino_jax.core.scheme import NM
from domino_jax.run import monitor
from domino_jax.run.experiment import Experiment
from domino_jax.trace.channels import Channels, find_channels

PARTS = ("params", "stats")
SHOWN = 6  # names of layers in one line


def kept_of_every(exp: Experiment) -> Mapping[str, np.ndarray]:
    """Returns path -> n of the N:M that `permute` names; {} where it names none.

    Raises:
        InputError: no layer has its M.
    """
    if not exp.config.permute:
        return {}
    try:
        return n_by_path(uniform_nm(exp.layers, NM.parse(exp.config.permute)), exp.layers)
    except InputError as error:
        raise InputError(f"permute: {error}") from None


def reorder(exp: Experiment, params: Any, stats: Any) -> tuple[Any, Any]:
    """Reorders the channels so that the N:M of `permute` keeps more; the outputs stay.

    The same weights always give the same order, so search.py and train.py see one network.
    """
    n = kept_of_every(exp)
    if not n:
        return params, stats
    weights = {"params": params, "stats": stats}
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)

    def apply(weights: Any, inputs: Any) -> Any:
        key = jax.random.key(0)  # drawn from by nothing in evaluation mode
        return exp.model.apply(*weights.values(), inputs, train=False, key=key)[0]

    kept, moved = np.zeros(2), set[str]()
    for channels in find_channels(apply, shapes, exp.data.example):
        of_params, of_stats = (_within(channels, part) for part in PARTS)
        readers = consumers(exp.layers, of_params)
        if not readers or why_not(readers, of_params):
            continue
        found = permute_channels(weights["params"], exp.layers, n, of_params)
        weights = {
            "params": found.params,
            "stats": reordered(weights["stats"], of_stats, found.order),
        }
        n, kept, moved = found.n, kept + found.kept, moved | readers.keys()
    _say(exp, moved, kept)
    return weights["params"], weights["stats"]


def _within(channels: Channels, part: str) -> Channels:
    """Picks the paths of one part, without its name."""
    prefix = f"{part}/"
    return {
        path.removeprefix(prefix): axes
        for path, axes in channels.items()
        if path.startswith(prefix)
    }


def _say(exp: Experiment, moved: set[str], kept: np.ndarray) -> None:
    paths = list(kernels(exp.layers))
    stay = [path for path in paths if path not in moved]
    more = f", … ({len(stay) - SHOWN} more)" if len(stay) > SHOWN else ""
    gain = f", which keep {kept[1] / kept[0] - 1:+.2%} of magnitude" if moved else ""
    monitor.say(
        f"permute: {exp.config.permute} with the inputs of {len(moved)} of {len(paths)} kernels in "
        f"a better order{gain}"
        + (f"; as they were: {', '.join(stay[:SHOWN])}{more}" if stay else "")
    )

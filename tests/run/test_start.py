"""Dense networks that come from a file and are sparse already."""

import numpy as np
import scripts
import tiny

from domino_jax.core.scheme import load
from domino_jax.run import checkpoint


def saved(folder, change):
    """Saves the network of the tiny config with a changed kernel; returns the setting."""
    network = tiny.network(example=np.zeros((1, 4, 4, 4), np.float32), classes=3, seed=0)
    params = {name: {"kernel": np.array(leaf["kernel"])} for name, leaf in network.params.items()}
    change(params)
    checkpoint.save(folder, 3, {"params": params, "stats": network.stats})
    return f"init={folder}"


def halved(params):
    """Keeps the first two of every four inputs."""
    for leaf in params.values():
        kernel = leaf["kernel"]
        kernel[..., np.arange(kernel.shape[-2]) % 4 >= 2, :] = 0


def test_a_search_goes_on_from_a_sparse_network(tmp_path):
    init = saved(tmp_path / "init", halved)
    scripts.search(tmp_path / "lower", init, "search.budget=0.4", "search.lr=1e-3")
    counts = [nm.n for nm in load(tmp_path / "lower" / "scheme.json").values()]
    assert max(counts) == 2
    assert min(counts) == 1


def test_a_sparse_network_that_meets_the_budget_needs_no_step(tmp_path):
    init = saved(tmp_path / "init", halved)
    scripts.search(tmp_path / "met", init, "search.budget=0.5")
    assert [nm.n for nm in load(tmp_path / "met" / "scheme.json").values()] == [2, 2, 2]
    assert scripts.results(tmp_path / "met")["search"]["steps"] == 0
